//! Health checks: the requests; what they mean is decided in [`crate::domain::health`].
