//! Calls two Python functions when an arena is mapped and before it is unmapped. It owns the call into the interpreter,
//! and must never let an exception of theirs end a fetch: such an exception is shown like one of a destructor.

use pyo3::prelude::*;
use rudder_client::ArenaHooks;
use std::sync::OnceLock;

/// `created(address, bytes)` and `dropped(address)`, once they are given.
#[derive(Debug, Default)]
pub(crate) struct PyHooks(OnceLock<(Py<PyAny>, Py<PyAny>)>);

impl PyHooks {
    /// Tells these functions of arenas from now on. Answers whether none were given before.
    pub(crate) fn set(&self, created: Py<PyAny>, dropped: Py<PyAny>) -> bool {
        self.0.set((created, dropped)).is_ok()
    }
}

impl ArenaHooks for PyHooks {
    fn created(&self, address: usize, bytes: usize) {
        if let Some((created, _)) = self.0.get() {
            call(created, |py| created.call1(py, (address, bytes)));
        }
    }

    fn dropped(&self, address: usize) {
        if let Some((_, dropped)) = self.0.get() {
            call(dropped, |py| dropped.call1(py, (address,)));
        }
    }
}

/// Calls `hook`, unless the interpreter is gone.
fn call(hook: &Py<PyAny>, how: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>>) {
    Python::try_attach(|py| {
        if let Err(error) = how(py) {
            error.write_unraisable(py, Some(hook.bind(py)));
        }
    });
}
