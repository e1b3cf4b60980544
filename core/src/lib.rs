//! Steadfast's model, pure decisions, engine and supervisor: generic over a clock and a storage; no I/O.
