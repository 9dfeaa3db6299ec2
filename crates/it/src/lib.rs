//! Nothing: the tests are in `tests/it` at the top. They are a package of their own so that they
//! compile without optimisation while the library that they drive has it, and so that those who
//! work on the library do not build what only they need.
