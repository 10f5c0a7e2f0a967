//! The library behind `embassy` and `kubectl-embassy`.
