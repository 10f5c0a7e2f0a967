//! The manifests as the restoring mover left them: a gzip of a JSON array, of which nothing is trusted.

use serde_json::Value;
use std::io::Read as _;

/// Most bytes that the manifests may unpack to: a gzip of a megabyte can hold a gigabyte.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Most objects of one DataEmbassy.
const MAX_OBJECTS: usize = 512;

/// Why manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Not gzip, or cut short.
    #[error("the manifests are not a whole gzip stream")]
    Gzip(#[source] std::io::Error),
    /// They unpack to too much.
    #[error("the manifests unpack to more than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not a JSON array.
    #[error("the manifests are not a JSON array")]
    Json(#[source] serde_json::Error),
    /// Too many objects.
    #[error("the manifests hold {0} objects, more than {MAX_OBJECTS}: split the DataEmbassy")]
    TooMany(usize),
}

/// Unpacks manifests, in bounded memory.
///
/// # Errors
/// [`UnpackError`].
pub fn unpack(gzip: &[u8]) -> Result<Vec<Value>, UnpackError> {
    let mut json = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(gzip).take(MAX_BYTES.saturating_add(1));
    reader.read_to_end(&mut json).map_err(UnpackError::Gzip)?;
    if u64::try_from(json.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(UnpackError::TooLarge);
    }
    let objects: Vec<Value> = serde_json::from_slice(&json).map_err(UnpackError::Json)?;
    if objects.len() > MAX_OBJECTS { Err(UnpackError::TooMany(objects.len())) } else { Ok(objects) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn unpacks_and_refuses() {
        assert_eq!(unpack(&gzip(b"[{\"kind\":\"x\"}]")).unwrap().len(), 1);
        assert!(matches!(unpack(b"[]"), Err(UnpackError::Gzip(_))));
        let whole = gzip(b"[1,2,3]");
        let torn = whole.get(..whole.len() - 6).unwrap();
        assert!(matches!(unpack(torn), Err(UnpackError::Gzip(_))));
        assert!(matches!(unpack(&gzip(b"{}")), Err(UnpackError::Json(_))));
        let many = serde_json::to_vec(&vec![1; MAX_OBJECTS + 1]).unwrap();
        assert!(matches!(unpack(&gzip(&many)), Err(UnpackError::TooMany(_))));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
        assert!(bomb.len() < 1024 * 1024);
        assert!(matches!(unpack(&bomb), Err(UnpackError::TooLarge)));
    }
}
