//! Tests of the pool through its interface.
