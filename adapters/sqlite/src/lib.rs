//! Steadfast's storage on SQLite: the embedded default.
