//! Rows as memory that NumPy adopts: an object with the array interface, which the array keeps alive as its base.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rudder_client::{DType, Rows};

/// Rows of one fetch. Their memory is free for other fetches once this object and every array over it are gone.
#[pyclass(frozen, name = "Rows", module = "rudder._native")]
pub(crate) struct NativeRows {
    /// Kept so that the memory stays leased. Python reads and writes the bytes at `address`; this side never does.
    _lease: Rows,
    address: usize,
    shape: Vec<usize>,
    dtype: DType,
}

impl NativeRows {
    pub(crate) fn new(mut rows: Rows) -> Self {
        let address = rows.bytes_mut().as_mut_ptr().expose_provenance();
        let shape = std::iter::once(rows.len()).chain(rows.table().shape.iter().map(|&size| size as usize)).collect();
        let dtype = rows.table().dtype;
        Self { _lease: rows, address, shape, dtype }
    }
}

#[pymethods]
impl NativeRows {
    /// What `numpy.asarray` needs to make an array of this memory: version 3 of the array interface, writable.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", self.dtype.npy_descr())?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("data", (self.address, false))?;
        Ok(interface)
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.name()
    }
}
