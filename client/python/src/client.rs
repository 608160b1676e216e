//! The client and its fetches in flight as Python objects: every call that may wait gives up the interpreter's lock.

use crate::errors::to_python;
use crate::hooks::PyHooks;
use crate::ids::{BorrowedIds, PyParts, borrow_all, parts_of};
use crate::rows::NativeRows;
use crate::signals;
use numpy::{Element, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rudder_client::{
    ArenaHooks, Client, ClientError, ConnectOptions, ErrorCode, FetchOptions, IdSpace, PendingParts, Rows,
};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A connection to the daemon of this node.
#[pyclass(frozen, name = "Client", module = "rudder._native")]
pub(crate) struct NativeClient {
    client: Client,
    hooks: Arc<PyHooks>,
}

/// A fetch in flight.
#[pyclass(frozen, name = "Pending", module = "rudder._native")]
pub(crate) struct NativePending {
    fetch: Mutex<Option<PendingParts>>,
    /// What to ask again if the daemon has forgotten the batch that was named.
    client: Py<NativeClient>,
    parts: PyParts,
    options: FetchOptions,
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
    #[pyo3(signature = (
        socket, timeout_ms, inline, arena_bytes_max, name, trainer, ids, fingerprint, wait_ms=0,
    ))]
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
        wait_ms: u64,
    ) -> PyResult<Self> {
        let hooks = Arc::new(PyHooks::default());
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
            wait_ms,
            arena_hooks: Some(Arc::clone(&hooks) as Arc<dyn ArenaHooks>),
        };
        let client = py.detach(|| Client::connect(options)).map_err(|error| to_python(py, error))?;
        Ok(Self { client, hooks })
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

    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn fetch(&self, py: Python<'_>, parts: PyParts, batch: Option<u64>, learn: bool) -> PyResult<Vec<NativeRows>> {
        let borrowed = borrow_all(py, &parts)?;
        let (parts, options) = (parts_of(&parts, &borrowed)?, FetchOptions { batch, learn });
        let rows = py.detach(|| self.client.fetch_parts(&parts, options)).map_err(|error| to_python(py, error))?;
        Ok(native(rows))
    }

    fn fetch_async(slf: Bound<'_, Self>, parts: PyParts, batch: Option<u64>, learn: bool) -> PyResult<NativePending> {
        let (py, client, options) = (slf.py(), &slf.get().client, FetchOptions { batch, learn });
        let fetch = {
            let borrowed = borrow_all(py, &parts)?;
            let parts = parts_of(&parts, &borrowed)?;
            py.detach(|| client.fetch_parts_async(&parts, options)).map_err(|error| to_python(py, error))?
        };
        // Only a fetch that names a batch may have to be asked again.
        let parts = if batch.is_some() { parts } else { Vec::new() };
        Ok(NativePending { fetch: Mutex::new(Some(fetch)), client: slf.unbind(), parts, options })
    }

    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn announce(&self, py: Python<'_>, parts: PyParts, step: Option<u64>, batch: u64) -> PyResult<()> {
        let borrowed = borrow_all(py, &parts)?;
        let parts = parts_of(&parts, &borrowed)?;
        py.detach(|| self.client.announce_parts(&parts, step, batch)).map_err(|error| to_python(py, error))
    }

    fn horizon(&self, py: Python<'_>, table: &str) -> PyResult<u32> {
        py.detach(|| self.client.horizon(table)).map_err(|error| to_python(py, error))
    }

    fn warnings(&self, py: Python<'_>) -> Vec<(&'static str, String)> {
        // A thread that connects again holds the session, and asks whether it is interrupted, which needs this lock.
        let warnings = py.detach(|| self.client.warnings());
        warnings.into_iter().map(|notice| (notice.code.name(), notice.message)).collect()
    }

    /// Tells `created(address, bytes)` of each arena that is mapped from now on, and `dropped(address)` before it is
    /// unmapped. They are called in any thread, with the interpreter's lock and no other, `dropped` also where the last
    /// array over an arena dies: they must not call this client, nor wait for a thread that does.
    fn on_arena(&self, created: Py<PyAny>, dropped: Py<PyAny>) -> PyResult<()> {
        let given = || PyRuntimeError::new_err("on_arena was called before: a client tells one pair of functions");
        self.hooks.set(created, dropped).then_some(()).ok_or_else(given)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.client.close());
    }

    fn progress(&self, py: Python<'_>, epoch: u32, step: u32, steps_per_epoch: u32) -> PyResult<()> {
        py.detach(|| self.client.progress(epoch, step, steps_per_epoch)).map_err(|error| to_python(py, error))
    }

    fn owner<'py>(&self, py: Python<'py>, of: &str, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<u16>>> {
        translated(py, ids, |ids| self.client.owners(of, ids))
    }

    fn local_range(&self, py: Python<'_>, of: &str) -> PyResult<(u64, u64)> {
        let range = py.detach(|| self.client.local_range(of)).map_err(|error| to_python(py, error))?;
        Ok((range.start, range.end))
    }

    #[allow(clippy::needless_pass_by_value, reason = "Python hands arguments over")]
    fn update(
        &self,
        py: Python<'_>,
        table: &str,
        ids: &Bound<'_, PyAny>,
        rows: PyReadonlyArray1<'_, u8>,
    ) -> PyResult<u64> {
        let ids = BorrowedIds::borrow(ids)?;
        let (ids, rows) = (ids.as_ids()?, rows.as_slice()?);
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
        let ids = BorrowedIds::borrow(ids)?;
        let ids = ids.as_ids()?;
        py.detach(|| self.client.names(of, &ids.to_wide()?)).map_err(|error| to_python(py, error))
    }

    fn warm(&self, py: Python<'_>, table: &str, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = BorrowedIds::borrow(ids)?;
        let ids = ids.as_ids()?;
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
    fn lock(&self) -> MutexGuard<'_, Option<PendingParts>> {
        self.fetch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl NativePending {
    fn wait(&self, py: Python<'_>) -> PyResult<Vec<NativeRows>> {
        let taken =
            || PyRuntimeError::new_err("the rows of this fetch were taken: keep what the first wait() answered");
        let fetch = self.lock().take().ok_or_else(taken)?;
        match py.detach(|| fetch.wait()) {
            Ok(rows) => Ok(native(rows)),
            Err(error) if self.options.batch.is_some() && error.code() == Some(ErrorCode::UnknownBatch) => {
                let (client, borrowed) = (&self.client.get().client, borrow_all(py, &self.parts)?);
                let parts = parts_of(&self.parts, &borrowed)?;
                let options = FetchOptions { batch: None, ..self.options };
                let rows = py.detach(|| client.fetch_parts(&parts, options)).map_err(|error| to_python(py, error))?;
                Ok(native(rows))
            }
            Err(error) => Err(to_python(py, error)),
        }
    }

    fn done(&self) -> bool {
        self.lock().as_ref().is_none_or(PendingParts::is_ready)
    }
}

fn native(rows: Vec<Rows>) -> Vec<NativeRows> {
    rows.into_iter().map(NativeRows::new).collect()
}

/// What `translate` makes of `ids`, as a new array.
fn translated<'py, T: Element>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    translate: impl FnOnce(&[u64]) -> Result<Vec<T>, ClientError> + Send,
) -> PyResult<Bound<'py, PyArray1<T>>> {
    let ids = BorrowedIds::borrow(ids)?;
    let ids = ids.as_ids()?;
    let answers = py.detach(|| translate(&ids.to_wide()?)).map_err(|error| to_python(py, error))?;
    Ok(PyArray1::from_vec(py, answers))
}
