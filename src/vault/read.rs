//! Downloads: whole files and ranges.

use super::error::RequestError;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::io::{self, SeekFrom};
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// Bytes read at once; with one more in flight, the memory of one download.
const BUFFER: usize = 256 << 10;

/// A span of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    length: u64,
}

/// Answers GET and HEAD of one file.
///
/// # Errors
/// [`RequestError::NotFound`], [`RequestError::Range`], or the file system's.
pub async fn send(path: &Path, headers: &HeaderMap, head: bool) -> Result<Response<Body>, RequestError> {
    let mut file = File::open(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RequestError::NotFound("no such object"),
        _ => RequestError::io("open an object")(error),
    })?;
    let total = file.metadata().await.map_err(RequestError::io("look at an object"))?.len();
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let (span, status) = match range {
        // A length is asked for by HEAD: of the whole, whatever range stands beside it.
        Some(range) if !head => match parse_range(range, total) {
            Parsed::Span(span) => (span, StatusCode::PARTIAL_CONTENT),
            Parsed::Outside => return Err(RequestError::Range(total)),
            Parsed::Ignored => (Span { start: 0, length: total }, StatusCode::OK),
        },
        _ => (Span { start: 0, length: total }, StatusCode::OK),
    };
    let body = if head {
        Body::empty()
    } else {
        file.seek(SeekFrom::Start(span.start)).await.map_err(RequestError::io("seek in an object"))?;
        file.set_max_buf_size(BUFFER);
        Body::from_stream(ReaderStream::with_capacity(file.take(span.length), BUFFER))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(span.length));
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let end = (span.start + span.length).saturating_sub(1);
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {}-{end}/{total}", span.start)) {
            fields.insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Span(Span),
    Outside,
    /// Not a single range of bytes: RFC 9110 lets a server answer with the whole.
    Ignored,
}

fn parse_range(text: &str, total: u64) -> Parsed {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Parsed::Ignored;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.saturating_add(1).min(total)),
        (Ok(start), Err(_)) if last.is_empty() => (start, total),
        (Err(_), Ok(0)) if first.is_empty() => return Parsed::Outside,
        (Err(_), Ok(suffix)) if first.is_empty() => (total.saturating_sub(suffix), total),
        _ => return Parsed::Ignored,
    };
    match end.checked_sub(start) {
        Some(length) if length > 0 => Parsed::Span(Span { start, length }),
        _ => Parsed::Outside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_file() {
        let span = |start, length| Parsed::Span(Span { start, length });
        assert_eq!(parse_range("bytes=0-", 10), span(0, 10));
        assert_eq!(parse_range("bytes=3-5", 10), span(3, 3));
        assert_eq!(parse_range("bytes=3-500", 10), span(3, 7));
        assert_eq!(parse_range("bytes=0-18446744073709551615", 10), span(0, 10));
        assert_eq!(parse_range("bytes=-4", 10), span(6, 4));
        assert_eq!(parse_range("bytes=-400", 10), span(0, 10));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(parse_range(outside, 10), Parsed::Outside, "{outside}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Parsed::Outside);
        for ignored in ["bytes=5-3", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b"] {
            assert_eq!(parse_range(ignored, 10), Parsed::Ignored, "{ignored}");
        }
    }
}
