//! The bearer token: read once from its file, compared in constant time, never shown.

use super::AdminError;
use axum::http::{HeaderMap, header::AUTHORIZATION};
use std::{fmt, fs, path::Path};

/// Longest token that is believed.
const TOKEN_BYTES_MAX: usize = 4096;

/// A secret that a caller must present.
pub(super) struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Token {
    /// Reads the token in `path`: one line of visible ASCII characters.
    pub(super) fn read(path: &Path) -> Result<Self, AdminError> {
        let text = fs::read(path).map_err(|source| AdminError::TokenUnreadable { path: path.to_path_buf(), source })?;
        let token = text.trim_ascii();
        let unusable = |problem| Err(AdminError::TokenUnusable { path: path.to_path_buf(), problem });
        if token.is_empty() {
            return unusable("is empty: write a token into it, such as the output of `openssl rand -hex 32`");
        }
        if token.len() > TOKEN_BYTES_MAX || !token.iter().all(u8::is_ascii_graphic) {
            return unusable("must hold one line of at most 4096 visible ASCII characters");
        }
        Ok(Self(token.to_vec()))
    }

    /// Whether `headers` carry `Authorization: Bearer` with this token.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && aws_lc_rs::constant_time::verify_slices_are_equal(token.trim_ascii(), &self.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_exact_token_is_admitted() {
        let token = Token(b"s3cret".to_vec());
        assert!(token.admits(&headers("Bearer s3cret")));
        assert!(token.admits(&headers("bearer s3cret")));
        for wrong in ["Bearer s3creT", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", "Bearer", ""] {
            assert!(!token.admits(&headers(wrong)), "{wrong}");
        }
        assert!(!token.admits(&HeaderMap::new()));
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn an_unusable_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(Token::read(&path).unwrap_err().to_string().contains("cannot read the token file"));
        for content in ["", "\n", "two words", "caf\u{e9}"] {
            fs::write(&path, content).unwrap();
            let error = Token::read(&path).unwrap_err().to_string();
            assert!(error.contains("token (admin.token_file)"), "{error}");
        }
        fs::write(&path, "fine\n").unwrap();
        assert_eq!(Token::read(&path).unwrap().0, b"fine");
    }
}
