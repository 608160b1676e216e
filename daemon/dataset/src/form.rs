//! What a row of a table is: elements of one type in a shape. Owns the limits of both. It must never know where rows
//! lie.

use rudder_client::DType;

use super::npy::Shape;

/// Longest row, in bytes, that a table may have.
pub const ROW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Most dimensions of a row: NumPy 1 knows arrays of at most 32, and the first counts the rows.
pub const ROW_DIMENSIONS_MAX: usize = 31;

/// Element type and shape of the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowForm {
    dtype: DType,
    shape: Vec<u32>,
    width: u32,
}

/// A shape that no row has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rows of shape {shape} of {dtype}: a row has 1 to {ROW_BYTES_MAX} bytes and at most {ROW_DIMENSIONS_MAX} dimensions"
)]
pub struct RowFormError {
    /// The shape of a row.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
}

impl RowForm {
    /// Rows of `dtype` whose dimensions have `sizes`; none where a row is one number.
    ///
    /// # Errors
    /// [`RowFormError`] when a row would have no byte, too many bytes or too many dimensions.
    pub fn new(dtype: DType, sizes: &[u64]) -> Result<Self, RowFormError> {
        let row_bytes = sizes.iter().try_fold(dtype.size() as u64, |all, &size| all.checked_mul(size));
        let is_row = row_bytes.is_some_and(|bytes| (1..=ROW_BYTES_MAX).contains(&bytes));
        if !is_row || sizes.len() > ROW_DIMENSIONS_MAX {
            return Err(RowFormError { shape: Shape(sizes.to_vec()), dtype });
        }
        // Each size is at most the bytes of a row, and none is 0.
        let shape: Vec<u32> = sizes.iter().map(|&size| size as u32).collect();
        let width = shape.iter().product();
        Ok(Self { dtype, shape, width })
    }

    /// The same shape of other elements.
    ///
    /// # Errors
    /// As [`RowForm::new`].
    pub fn of_type(&self, dtype: DType) -> Result<Self, RowFormError> {
        Self::new(dtype, &self.sizes())
    }

    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes of the dimensions of a row.
    #[must_use]
    pub fn shape(&self) -> &[u32] {
        &self.shape
    }

    /// The same as file headers have them.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        self.shape.iter().copied().map(u64::from).collect()
    }

    /// Elements of a row.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.width as usize * self.dtype.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_rows_may_have() {
        let form = |dtype, sizes: &[u64]| RowForm::new(dtype, sizes).map(|form| (form.width(), form.row_bytes()));
        assert_eq!(form(DType::F32, &[]), Ok((1, 4)));
        assert_eq!(form(DType::U16, &[1]), Ok((1, 2)));
        assert_eq!(form(DType::Bool, &[2, 3]), Ok((6, 6)));
        assert_eq!(form(DType::U8, &[ROW_BYTES_MAX]), Ok((1 << 26, 1 << 26)));
        assert_eq!(form(DType::U8, &[1; ROW_DIMENSIONS_MAX]), Ok((1, 1)));
        let refused: [(DType, &[u64]); 6] = [
            (DType::F32, &[0]),
            (DType::F32, &[3, 0, 2]),
            (DType::U16, &[ROW_BYTES_MAX]),
            (DType::U8, &[1 << 32, 1 << 32]),
            (DType::U8, &[0, u64::MAX, u64::MAX]),
            (DType::U8, &[1; ROW_DIMENSIONS_MAX + 1]),
        ];
        for (dtype, sizes) in refused {
            let message = RowForm::new(dtype, sizes).unwrap_err().to_string();
            assert!(message.starts_with(&format!("rows of shape {} of {dtype}", Shape(sizes.to_vec()))), "{message}");
        }
    }
}
