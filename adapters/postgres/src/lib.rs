//! Steadfast's storage on PostgreSQL: many workers, many machines.
