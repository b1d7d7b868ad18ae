//! Valid specs of every shape, for property tests.
