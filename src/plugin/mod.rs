//! `kubectl embassy`: edits intent and leaves acting to the operator.
