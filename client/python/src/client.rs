//! The client and its fetches in flight as Python objects: every call that may wait gives up the interpreter's lock.

use crate::errors::to_python;
use crate::ids::Ids;
use crate::rows::NativeRows;
use crate::signals;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rudder_client::{Client, ClientError, ConnectOptions, IdSpace, Pending};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A connection to the daemon of this node.
#[pyclass(frozen, name = "Client", module = "rudder._native")]
pub(crate) struct NativeClient {
    client: Client,
}

/// A fetch in flight.
#[pyclass(frozen, name = "Pending", module = "rudder._native")]
pub(crate) struct NativePending {
    fetch: Mutex<Option<Pending>>,
}

/// Name, vertex type, element type, width, shape of a row, rows, rows of this node, whether renumbered, whether named.
type Table<'py> = (String, String, &'static str, u32, Bound<'py, PyTuple>, u64, u64, bool, bool);

/// The numbers that ids are, by their name in Python.
fn id_space(name: &str) -> PyResult<IdSpace> {
    [IdSpace::Original, IdSpace::Dataset]
        .into_iter()
        .find(|space| space.name() == name)
        .ok_or_else(|| PyValueError::new_err(format!("ids is {name:?}: it must be \"original\" or \"dataset\"")))
}

#[pymethods]
impl NativeClient {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "they are the options of `rudder.connect`")]
    fn new(
        py: Python<'_>,
        socket: Option<PathBuf>,
        timeout_ms: u64,
        inline: bool,
        arena_bytes_max: u64,
        name: Option<String>,
        trainer: Option<u128>,
        ids: &str,
        fingerprint: Option<u64>,
    ) -> PyResult<Self> {
        let interrupted = Some(signals::interrupted as fn() -> bool);
        let ids = id_space(ids)?;
        let options = ConnectOptions {
            socket,
            timeout_ms,
            inline,
            arena_bytes_max,
            name,
            trainer,
            ids,
            fingerprint,
            interrupted,
        };
        let client = py.detach(|| Client::connect(options)).map_err(|error| to_python(py, error))?;
        Ok(Self { client })
    }

    #[getter]
    fn node(&self) -> u16 {
        self.client.node()
    }

    #[getter]
    fn trainer(&self) -> u128 {
        self.client.trainer()
    }

    #[getter]
    fn ids(&self) -> &'static str {
        self.client.ids().name()
    }

    #[getter]
    fn fingerprint(&self) -> u64 {
        self.client.fingerprint()
    }

    fn tables<'py>(&self, py: Python<'py>) -> PyResult<Vec<Table<'py>>> {
        let row = |table: &rudder_client::TableInfo| {
            let (name, vertex_type, shape) =
                (table.name.clone(), table.vertex_type.clone(), PyTuple::new(py, &table.shape)?);
            let (renumbered, named) = (table.renumbered, table.named);
            Ok((
                name,
                vertex_type,
                table.dtype.name(),
                table.width,
                shape,
                table.rows,
                table.local_rows,
                renumbered,
                named,
            ))
        };
        self.client.tables().iter().map(row).collect()
    }

    fn fetch(&self, py: Python<'_>, table: &str, ids: &Bound<'_, PyAny>) -> PyResult<NativeRows> {
        let ids = Ids::borrow(ids)?;
        let ids = ids.as_slice()?;
        let rows = py.detach(|| self.client.fetch(table, ids)).map_err(|error| to_python(py, error))?;
        Ok(NativeRows::new(rows))
    }

    fn fetch_async(&self, py: Python<'_>, table: &str, ids: &Bound<'_, PyAny>) -> PyResult<NativePending> {
        let ids = Ids::borrow(ids)?;
        let ids = ids.as_slice()?;
        let fetch = py.detach(|| self.client.fetch_async(table, ids)).map_err(|error| to_python(py, error))?;
        Ok(NativePending { fetch: Mutex::new(Some(fetch)) })
    }

    fn announce(&self, py: Python<'_>, table: &str, ids: &Bound<'_, PyAny>, step: Option<u64>) -> PyResult<u32> {
        let ids = Ids::borrow(ids)?;
        let ids = ids.as_slice()?;
        py.detach(|| self.client.announce(table, ids, step)).map_err(|error| to_python(py, error))
    }

    fn progress(&self, py: Python<'_>, epoch: u32, step: u32, steps_per_epoch: u32) -> PyResult<()> {
        py.detach(|| self.client.progress(epoch, step, steps_per_epoch)).map_err(|error| to_python(py, error))
    }

    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn update(
        &self,
        py: Python<'_>,
        table: &str,
        ids: &Bound<'_, PyAny>,
        rows: PyReadonlyArray1<'_, u8>,
    ) -> PyResult<u64> {
        let ids = Ids::borrow(ids)?;
        let (ids, rows) = (ids.as_slice()?, rows.as_slice()?);
        py.detach(|| self.client.update(table, ids, rows)).map_err(|error| to_python(py, error))
    }

    fn original_ids<'py>(
        &self,
        py: Python<'py>,
        of: &str,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        translated(py, ids, |ids| self.client.original_ids(of, ids))
    }

    fn dataset_ids<'py>(
        &self,
        py: Python<'py>,
        of: &str,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        translated(py, ids, |ids| self.client.dataset_ids(of, ids))
    }

    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn ids_of_names<'py>(&self, py: Python<'py>, of: &str, names: Vec<String>) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let ids = py.detach(|| self.client.ids_of_names(of, &names)).map_err(|error| to_python(py, error))?;
        Ok(PyArray1::from_vec(py, ids))
    }

    fn names(&self, py: Python<'_>, of: &str, ids: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
        let ids = Ids::borrow(ids)?;
        let ids = ids.as_slice()?;
        py.detach(|| self.client.names(of, ids)).map_err(|error| to_python(py, error))
    }

    fn warm(&self, py: Python<'_>, table: &str, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = Ids::borrow(ids)?;
        let ids = ids.as_slice()?;
        let answer = py.detach(|| self.client.warm(table, ids)).map_err(|error| to_python(py, error))?;
        Ok(answer.to_string())
    }

    fn tool(&self, py: Python<'_>, call: &str) -> PyResult<String> {
        py.detach(|| self.client.tool(call)).map_err(|error| to_python(py, error))
    }

    fn status(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| self.client.status()).map_err(|error| to_python(py, error))
    }
}

impl NativePending {
    /// Held for moments only, and never while a thread waits for the interpreter's lock.
    fn lock(&self) -> MutexGuard<'_, Option<Pending>> {
        self.fetch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl NativePending {
    fn wait(&self, py: Python<'_>) -> PyResult<NativeRows> {
        let taken =
            || PyRuntimeError::new_err("the rows of this fetch were taken: keep what the first wait() answered");
        let fetch = self.lock().take().ok_or_else(taken)?;
        let rows = py.detach(|| fetch.wait()).map_err(|error| to_python(py, error))?;
        Ok(NativeRows::new(rows))
    }

    fn done(&self) -> bool {
        self.lock().as_ref().is_none_or(Pending::is_ready)
    }
}

/// What `translate` makes of `ids`, as a new array.
fn translated<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    translate: impl FnOnce(&[u64]) -> Result<Vec<u64>, ClientError> + Send,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let ids = Ids::borrow(ids)?;
    let ids = ids.as_slice()?;
    let ids = py.detach(|| translate(ids)).map_err(|error| to_python(py, error))?;
    Ok(PyArray1::from_vec(py, ids))
}
