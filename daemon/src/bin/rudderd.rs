//! rudderd
fn main() {}
