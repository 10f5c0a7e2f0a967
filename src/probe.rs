//! Health checks: the requests; what they mean is decided in [`crate::domain::health`].

/// The tasks that probe, one a DataEmbassy.
#[derive(Clone, Debug, Default)]
pub struct ProbeHub {}
