//! The desk and the reporter.
