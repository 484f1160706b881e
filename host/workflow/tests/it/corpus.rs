//! Bad files and what the user reads.
