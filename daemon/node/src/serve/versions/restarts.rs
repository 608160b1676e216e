//! What to do when an owner was restarted: updates do not outlive it, so that all of its rows may have changed. It owns
//! the repetition: a refresh that fails is tried again, after a pause that grows, until the owner's rows are those of
//! its new process. It keeps no list of who was restarted: that follows from what is known of the owner's versions.

use std::time::Duration;

/// Bounds on the pause after a refresh that failed.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Follows restarts for ever: `refresh` brings the rows of restarted owners up to date and answers for how many that
/// failed; `renewed` waits until another owner was restarted.
pub(crate) async fn follow<R, N>(refresh: impl Fn() -> R, renewed: impl Fn() -> N)
where
    R: Future<Output = usize>,
    N: Future<Output = ()>,
{
    let mut pause = PAUSE_MIN;
    loop {
        if refresh().await == 0 {
            pause = PAUSE_MIN;
            renewed().await;
        } else {
            tokio::select! {
                () = renewed() => pause = PAUSE_MIN,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    /// The refresh right after a restart fails easily: the connection may break once more.
    #[tokio::test]
    async fn a_refresh_that_fails_is_tried_again_until_it_succeeds() {
        let (calls, begin) = (AtomicUsize::new(0), Instant::now());
        let refresh = || std::future::ready(usize::from(calls.fetch_add(1, Ordering::SeqCst) < 2));
        let renewed = std::future::pending::<()>;
        let never_ends = tokio::time::timeout(PAUSE_MIN * 5, follow(refresh, renewed)).await;
        assert!(never_ends.is_err());
        assert_eq!(
            calls.load(Ordering::SeqCst),
            3,
            "the refresh was not repeated, or not given up once it had succeeded"
        );
        assert!(begin.elapsed() >= PAUSE_MIN * 3, "the pause does not grow");
    }
}
