//! Namespaces with real programs.
