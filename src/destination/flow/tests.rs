use super::*;

fn outcome_of(status: u16, body: &str) -> &'static str {
    let answer = Answer { status, retry_after: None, body: body.into() };
    match outcome(Ok(answer)) {
        Outcome::Done { .. } => "done",
        Outcome::Pause { reason, .. } | Outcome::Blocked { reason, .. } => reason.alert.unwrap_or("pause"),
        Outcome::Refused { .. } => "refused",
        Outcome::Uncertain { .. } => "uncertain",
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn the_table_of_outcomes() {
    for (status, body, expected) in [
        (200, r#"{"status":"ok"}"#, "done"),
        (200, "<html>", "uncertain"),
        (204, "", "uncertain"),
        (302, "", "flow_address"),
        (404, "", "flow_address"),
        (401, "", "flow_credential"),
        (403, "", "flow_credential"),
        (400, "", "refused"),
        (422, "", "refused"),
        (429, "", "pause"),
        (408, "", "uncertain"),
        (409, "", "uncertain"),
        (500, "", "uncertain"),
        (502, "", "uncertain"),
        (503, "", "uncertain"),
    ] {
        assert_eq!(outcome_of(status, body), expected, "{status} {body}");
    }
    let lost = |unsent| outcome(Err(NoAnswer { unsent, how: "gone".to_owned() }));
    assert!(matches!(lost(true), Outcome::Pause { doubt: Doubt::None, .. }));
    assert!(matches!(lost(false), Outcome::Uncertain { .. }));
}

#[test]
fn numbers_are_read_as_people_write_them() {
    let found = recipients("+1 (555) 123-4567, Jane Doe <+49 170 1234567>,").unwrap();
    let recipient = |name: &str, number: &str| Recipient { name: name.into(), number: number.into() };
    assert_eq!(found, [recipient("Anonymous", "+15551234567"), recipient("Jane Doe", "+491701234567")]);
    for wrong in
        ["", "5551234567", "+0123456789", "+12", "+1234567890123456", "Jane <+15551234567", "+1x5551234567"]
    {
        assert!(recipients(wrong).is_err(), "{wrong}");
    }
}
