//! The mark on the standby's volumes that they hold what the embassy wrote. The status says so too, but
//! a status can be lost with its object, and then the next turn would restore over it.

use super::{Input, PromoteError};
use crate::api::names::ANNOTATION_STARTED;
use crate::controller::Context;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use serde_json::json;

/// The epoch that each volume was started under.
pub fn read(claims: &[&PersistentVolumeClaim]) -> Vec<Option<u64>> {
    claims.iter().map(|claim| claim.annotations().get(ANNOTATION_STARTED)?.parse().ok()).collect()
}

/// Marks every volume that lacks the mark; done before anything is started.
pub async fn write(ctx: &Context, input: &Input<'_>, epoch: u64) -> Result<(), PromoteError> {
    let patch = json!({"metadata": {"annotations": {ANNOTATION_STARTED: epoch.to_string()}}});
    for (claim, mark) in input.claims.iter().zip(read(&input.claims)) {
        if mark != Some(epoch) {
            let namespace = &input.pair.embassy_namespace;
            ctx.applier.merge::<PersistentVolumeClaim>(namespace, &claim.name_any(), &patch).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_is_no_number_is_none() {
        let claim = |mark: Option<&str>| {
            let mut claim = PersistentVolumeClaim::default();
            let annotations = mark.map(|mark| [(ANNOTATION_STARTED.to_owned(), mark.to_owned())].into());
            claim.metadata.annotations = annotations;
            claim
        };
        let claims = [claim(Some("3")), claim(Some("x")), claim(None)];
        assert_eq!(read(&claims.iter().collect::<Vec<_>>()), [Some(3), None, None]);
    }
}
