//! Two Python functions that are told of arenas. It owns the call into the interpreter, and must never let an exception
//! of theirs end a fetch: such an exception is shown like one of a destructor.

use pyo3::prelude::*;
use rudder_client::ArenaHooks;

/// `created(address, bytes)` and `dropped(address)`.
#[derive(Debug)]
pub(crate) struct PyHooks {
    pub(crate) created: Py<PyAny>,
    pub(crate) dropped: Py<PyAny>,
}

impl ArenaHooks for PyHooks {
    fn created(&self, address: usize, bytes: usize) {
        call(&self.created, |py, created| created.call1(py, (address, bytes)));
    }

    fn dropped(&self, address: usize) {
        call(&self.dropped, |py, dropped| dropped.call1(py, (address,)));
    }
}

/// Calls `hook`, unless the interpreter is gone.
fn call(hook: &Py<PyAny>, how: impl FnOnce(Python<'_>, &Py<PyAny>) -> PyResult<Py<PyAny>>) {
    Python::try_attach(|py| {
        if let Err(error) = how(py, hook) {
            error.write_unraisable(py, Some(hook.bind(py)));
        }
    });
}
