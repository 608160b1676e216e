//! Signals while a call waits: Python runs its handlers only when asked, so the client asks here. The exception that a
//! handler raised is kept for the interrupted call, which raises it.

use pyo3::prelude::*;
use std::cell::RefCell;

thread_local! {
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Whether a handler raised, for instance `KeyboardInterrupt`. The client calls this from the thread that waits.
pub(crate) fn interrupted() -> bool {
    #[allow(clippy::redundant_closure_for_method_calls, reason = "the method is not general over the lifetime")]
    let outcome = Python::try_attach(|py| py.check_signals());
    match outcome {
        Some(Err(error)) => {
            RAISED.with(|raised| *raised.borrow_mut() = Some(error));
            true
        }
        Some(Ok(())) | None => false,
    }
}

/// What the handler raised in this thread.
pub(crate) fn raised() -> Option<PyErr> {
    RAISED.with(|raised| raised.borrow_mut().take())
}
