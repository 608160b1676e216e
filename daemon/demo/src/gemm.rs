//! Owns the one call into `matrixmultiply`, whose interface is raw pointers: checks that the matrices lie inside their
//! slices and passes them on. Must never be reached with shapes that were not checked here.
#![allow(unsafe_code)]

/// A matrix inside a slice of floats: `rows` × `columns`, element `(i, j)` at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// The first `rows` rows of a row-major matrix of `columns` columns.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns, "{} floats hold no {rows} x {columns} matrix", data.len());
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same floats, transposed.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = a · b + keep · out`, row-major. On one machine the result is the same bit for bit at every call.
pub(crate) fn multiply(a: Matrix<'_>, b: Matrix<'_>, keep: f32, out: &mut [f32]) {
    assert_eq!(a.columns, b.rows, "inner dimensions differ");
    assert!(out.len() >= a.rows * b.columns, "{} floats hold no {} x {} product", out.len(), a.rows, b.columns);
    // SAFETY: both inputs were checked by `Matrix::new` to hold rows × columns floats at these strides (transposing
    // swaps both), `out` was checked above, is written as a row-major matrix and, being a unique borrow, overlaps
    // neither.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.columns,
            b.columns,
            1.0,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.column_stride as isize,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            keep,
            out.as_mut_ptr(),
            b.columns as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_and_transposes_and_accumulates() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let mut out = [0.0; 4];
        multiply(Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2), 0.0, &mut out);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
        multiply(Matrix::new(&a, 2, 3), Matrix::new(&a, 2, 3).transposed(), 1.0, &mut out);
        assert_eq!(out, [18.0, 37.0, 42.0, 88.0]);
    }

    #[test]
    #[should_panic(expected = "hold no")]
    fn refuses_a_matrix_beyond_its_slice() {
        let _ = Matrix::new(&[0.0; 5], 2, 3);
    }
}
