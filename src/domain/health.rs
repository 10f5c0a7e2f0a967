//! State of health checks.
