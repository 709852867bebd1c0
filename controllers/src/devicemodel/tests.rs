use jiff::Timestamp;
use serde_json::json;

use super::status::status;
use crate::{golden::rendered, rules};

#[test]
fn faults_and_users_are_shown() {
    let said = |spec| rendered(&status(&rules::model(&spec), 2, Some(1), Timestamp::UNIX_EPOCH));
    let good = json!({"properties": [{"name": "power", "type": "int", "source": {"simulated": {}}}]});
    assert_eq!(said(good), "  Ready=True Valid\n  devices: 2\n");
    let bad = json!({"properties": [{"name": "power", "type": "int", "minimum": 9, "maximum": 1}]});
    let said = said(bad);
    assert!(said.starts_with("  Ready=False InvalidSpec: spec.properties[0]"), "{said}");
    assert!(said.ends_with("  devices: 2\n"), "{said}");
}
