//! The module `rudder._native`: the Rust client as Python objects. It owns what must be native: waiting without the
//! interpreter's lock, rows as memory that NumPy can adopt, ids read in place. What users see (arrays, tensors,
//! options, error classes) is in the Python package around it. It must never hold the interpreter's lock while it
//! waits, and never hand out memory whose lease has ended.

mod client;
mod errors;
mod hooks;
mod ids;
mod rows;
mod signals;

/// The native half of the package `rudder`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::client::{NativeClient, NativePending};
    #[pymodule_export]
    use crate::rows::NativeRows;

    /// Version of the package and of the protocol's client.
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name is Python's")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// The one of `names` that was probably meant by `asked`.
    #[pyo3::pyfunction]
    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn nearest(asked: &str, names: Vec<String>) -> Option<String> {
        rudder_client::nearest(asked, names.iter().map(String::as_str)).map(str::to_owned)
    }

    /// The names that there are, for a message about `asked`, and the one that was probably meant.
    #[pyo3::pyfunction]
    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn listed(asked: &str, names: Vec<String>) -> String {
        rudder_client::listed(asked, names.iter().map(String::as_str))
    }
}
