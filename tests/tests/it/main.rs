//! Every test of the package in one binary, so that it links once.

mod conformance;
