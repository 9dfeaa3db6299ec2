//! No code: the rules of the tree are the test beside this file, `tests/tidy`. The crate has no
//! dependencies, so `cargo test --test tidy` compiles nothing else and answers within seconds.
