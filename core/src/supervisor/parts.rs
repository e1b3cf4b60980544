//! Many batches in one call, where nobody stands in the way of one of them.

use crate::step::{Batch, Outcome};
use crate::storage::{Error, ErrorKind, Storage};

/// Applies batches in one call if possible. Where somebody holds the row of one, or one can't be stored, the call is
/// halved until the culprit stands alone: the others' leases must not lapse for it.
pub(super) async fn in_parts<S: Storage>(storage: &S, batches: &[Batch]) -> Vec<Result<Outcome, Error>> {
    let mut answers = Vec::with_capacity(batches.len());
    let mut parts = vec![batches];
    while let Some(part) = parts.pop() {
        match storage.apply(part).await {
            Ok(outcomes) => answers.extend(outcomes.into_iter().map(Ok)),
            Err(error) => match error.kind() {
                ErrorKind::Contended | ErrorKind::Rejected if part.len() > 1 => {
                    let (first, rest) = part.split_at(part.len() / 2);
                    parts.extend([rest, first]);
                }
                _ => answers.extend(part.iter().map(|_| Err(error.clone()))),
            },
        }
    }
    answers
}
