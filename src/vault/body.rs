//! Reading request bodies without letting a slow or endless client hold us.

use super::error::RequestError;
use axum::body::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::time::Duration;
use tokio::time::Instant;

/// Slowest average accepted, in bytes per second, after one timeout's grace. Low enough for eight
/// uploads over a 128 kbit/s line, high enough that nobody holds a place for ever by trickling.
const MIN_RATE: u64 = 1024;
/// What is read and thrown away of a refused body so that the client gets to read the answer
/// (closing earlier makes its writes fail, and it sees a reset instead of our words).
const DRAIN_BYTES: u64 = 32 << 20;
/// Longest such drain.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A request's body with its bounds.
pub struct BoundedBody {
    inner: Incoming,
    max: u64,
    announced: Option<u64>,
    received: u64,
    idle: Duration,
    started: Instant,
}

impl BoundedBody {
    /// `max` in bytes; `announced` is the Content-Length, `idle` the longest silence.
    #[must_use]
    pub fn new(inner: Incoming, announced: Option<u64>, idle: Duration) -> Self {
        Self { inner, max: u64::MAX, announced, received: 0, idle, started: Instant::now() }
    }

    /// Sets the longest accepted body in bytes.
    ///
    /// # Errors
    /// [`RequestError::TooLong`] at once when more is announced.
    pub fn limit(&mut self, max: u64) -> Result<(), RequestError> {
        self.max = max;
        // The clock runs from here: waiting for a place among the uploads is not the client's fault.
        self.started = Instant::now();
        if self.announced.is_some_and(|length| length > max) {
            return Err(RequestError::TooLong(max));
        }
        Ok(())
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The announced length in bytes.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// The next piece; `None` at the proper end.
    ///
    /// # Errors
    /// Too long, too slow, cut off, or not as long as announced.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let deadline = Instant::now() + self.idle;
            let frame = tokio::time::timeout_at(deadline, self.inner.frame())
                .await
                .map_err(|_| RequestError::Slow("no data in time"))?;
            let Some(frame) = frame else { return self.at_end() };
            let frame = frame.map_err(|error| RequestError::Bad(format!("the body was cut off: {error}")))?;
            // Trailers carry nothing for us.
            let Ok(data) = frame.into_data() else { continue };
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            self.received = self.received.saturating_add(length);
            if self.received > self.max {
                return Err(RequestError::TooLong(self.max));
            }
            let allowed = self.idle + Duration::from_secs(self.received / MIN_RATE);
            if self.started.elapsed() > allowed {
                return Err(RequestError::Slow("less than 1 KiB/s"));
            }
            return Ok(Some(data));
        }
    }

    fn at_end(&self) -> Result<Option<Bytes>, RequestError> {
        match self.announced {
            Some(length) if length != self.received => Err(RequestError::Bad(format!(
                "the body has {} bytes, Content-Length said {length}",
                self.received
            ))),
            _ => Ok(None),
        }
    }

    /// The whole body in memory, for small ones.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(&mut self, max: u64) -> Result<Vec<u8>, RequestError> {
        self.limit(max)?;
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Reads what is left of a refused body, within bounds.
    pub async fn drain(&mut self) {
        let limit = self.received.saturating_add(DRAIN_BYTES);
        let read_on = async {
            while !self.inner.is_end_stream() && self.received < limit {
                match self.inner.frame().await {
                    Some(Ok(frame)) => {
                        let length = frame.data_ref().map_or(0, Bytes::len);
                        self.received = self.received.saturating_add(u64::try_from(length).unwrap_or(0));
                    }
                    Some(Err(_)) | None => break,
                }
            }
        };
        // A drain is a courtesy: that it ran out of time changes nothing.
        let _ = tokio::time::timeout(self.idle.min(DRAIN_TIME), read_on).await;
    }
}
