//! Ids as the client wants them, read in place: the Python side hands over contiguous arrays of `uint64` or `int64`.

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Borrowed ids.
pub(crate) enum Ids<'py> {
    Unsigned(PyReadonlyArray1<'py, u64>),
    /// Known to hold no negative value.
    Signed(PyReadonlyArray1<'py, i64>),
}

impl<'py> Ids<'py> {
    pub(crate) fn borrow(array: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = array.cast::<PyArray1<u64>>() {
            return Ok(Ids::Unsigned(array.try_readonly()?));
        }
        let Ok(array) = array.cast::<PyArray1<i64>>() else {
            return Err(PyTypeError::new_err("ids must be a one-dimensional array of uint64 or int64"));
        };
        let array = array.try_readonly()?;
        refuse_negative(array.as_slice()?)?;
        Ok(Ids::Signed(array))
    }

    pub(crate) fn as_slice(&self) -> PyResult<&[u64]> {
        match self {
            Ids::Unsigned(array) => Ok(array.as_slice()?),
            Ids::Signed(array) => Ok(bytemuck::cast_slice(array.as_slice()?)),
        }
    }
}

fn refuse_negative(ids: &[i64]) -> PyResult<()> {
    // One pass without branches; the culprit is looked for only when there is one.
    if ids.iter().fold(0, |signs, id| signs | id) >= 0 {
        return Ok(());
    }
    match ids.iter().enumerate().find(|(_, id)| **id < 0) {
        Some((at, id)) => {
            Err(PyValueError::new_err(format!("ids[{at}] is {id}: ids are numbers of rows and never negative")))
        }
        None => Ok(()),
    }
}
