//! Ids as the client wants them, read in place: the Python side hands over contiguous arrays of `uint64`, `int64`,
//! `uint32` or `int32`. It must never copy them.

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use rudder_client::Ids;

/// Borrowed ids.
pub(crate) enum BorrowedIds<'py> {
    U64(PyReadonlyArray1<'py, u64>),
    I64(PyReadonlyArray1<'py, i64>),
    U32(PyReadonlyArray1<'py, u32>),
    I32(PyReadonlyArray1<'py, i32>),
}

/// Names of tables, each with its ids, as Python hands them over.
pub(crate) type PyParts = Vec<(String, Py<PyAny>)>;

impl<'py> BorrowedIds<'py> {
    pub(crate) fn borrow(array: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = array.cast::<PyArray1<i64>>() {
            return Ok(Self::I64(array.try_readonly()?));
        }
        if let Ok(array) = array.cast::<PyArray1<u64>>() {
            return Ok(Self::U64(array.try_readonly()?));
        }
        if let Ok(array) = array.cast::<PyArray1<i32>>() {
            return Ok(Self::I32(array.try_readonly()?));
        }
        if let Ok(array) = array.cast::<PyArray1<u32>>() {
            return Ok(Self::U32(array.try_readonly()?));
        }
        Err(PyTypeError::new_err("ids must be a one-dimensional array of uint64, int64, uint32 or int32"))
    }

    /// The ids; an array that is not contiguous is an error.
    pub(crate) fn as_ids(&self) -> PyResult<Ids<'_>> {
        Ok(match self {
            Self::U64(array) => Ids::U64(array.as_slice()?),
            Self::I64(array) => Ids::I64(array.as_slice()?),
            Self::U32(array) => Ids::U32(array.as_slice()?),
            Self::I32(array) => Ids::I32(array.as_slice()?),
        })
    }
}

/// Borrows the ids of all parts.
pub(crate) fn borrow_all<'py>(py: Python<'py>, parts: &PyParts) -> PyResult<Vec<BorrowedIds<'py>>> {
    parts.iter().map(|(_, ids)| BorrowedIds::borrow(ids.bind(py))).collect()
}

/// The parts of a call, over ids that were borrowed.
pub(crate) fn parts_of<'a>(
    parts: &'a PyParts,
    borrowed: &'a [BorrowedIds<'_>],
) -> PyResult<Vec<rudder_client::Part<'a>>> {
    let both = parts.iter().zip(borrowed);
    both.map(|((table, _), ids)| Ok(rudder_client::Part { table, ids: ids.as_ids()? })).collect()
}
