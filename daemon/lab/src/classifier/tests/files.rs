//! Models through a file and back, and files that nobody should have written.

use super::{line, model, world};
use rudder_agent::classifier::file::{BYTES_MAX, FORMAT, Model};
use rudder_agent::classifier::steer::ClassifierController;
use rudder_agent::classifier::{ClassifierError, Kind, Task};
use std::path::Path;

/// A model file with one text in it changed for another, and the error it gives.
fn said_of(dir: &Path, kind: Kind, change: impl Fn(&str) -> String) -> ClassifierError {
    let path = dir.join("model.json");
    model(kind).write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed);
    std::fs::write(&path, changed).unwrap();
    Model::read(&path).unwrap_err()
}

/// Replaces the first number after `key`.
fn with_number(text: &str, key: &str, number: &str) -> String {
    let at = text.find(key).unwrap() + key.len();
    let end = at + text[at..].find([',', ']', '}']).unwrap();
    format!("{}{number}{}", &text[..at], &text[end..])
}

/// Replaces the second number after `key`.
fn with_second(text: &str, key: &str, number: &str) -> String {
    let at = text.find(key).unwrap() + key.len();
    let comma = at + text[at..].find(',').unwrap() + 1;
    with_number(text, &text[text.find(key).unwrap()..comma], number)
}

#[test]
fn files_that_were_never_trained_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let said = |kind, change: &dyn Fn(&str) -> String| {
        let error = said_of(dir.path(), kind, change);
        let text = error.to_string();
        assert!(text.contains("model.json") && text.contains("rudder train"), "{text}");
        error
    };
    let version = said(Kind::Lr, &|text| text.replace("\"format\":1", "\"format\":2"));
    assert!(matches!(version, ClassifierError::Version { found: 2, .. }) && FORMAT == 1);
    let truncated = said(Kind::Gbt, &|text| text[..text.len() / 2].to_owned());
    assert!(matches!(truncated, ClassifierError::Malformed { .. }));
    for number in ["NaN", "null", "1e999", "\"1\""] {
        let wrong = said(Kind::Lr, &|text| with_number(text, "\"weights\":[", number));
        assert!(matches!(wrong, ClassifierError::Malformed { .. }), "{number}");
    }
    let features = said(Kind::Lr, &|text| text.replace("cold_share", "warm_share"));
    assert!(matches!(&features, ClassifierError::Features { what, .. } if what.contains("warm_share")));
    let unknown = said(Kind::Lr, &|text| text.replacen('{', "{\"colour\":1,", 1));
    assert!(matches!(unknown, ClassifierError::Malformed { .. }));
    let parameters: [(Kind, &str, &str); 15] = [
        (Kind::Lr, "\"gain\":{\"hit_rate\":[", "1e200"),
        (Kind::Lr, "\"wait\":[", "1e200"),
        (Kind::Lr, "\"bias\":", "-1e200"),
        (Kind::Lr, "\"mean\":[", "1e200"),
        (Kind::Gbt, "\"value\":", "1e200"),
        (Kind::Svm, "\"support\":[[", "1e200"),
        (Kind::Lr, "\"amount\":", "1.5"),
        (Kind::Lr, "\"deviation\":[", "-1"),
        (Kind::Lr, "\"weights\":[", "1,1"),
        (Kind::Mlp, "\"hidden\":[[", "1,1"),
        (Kind::Svm, "\"gamma\":", "-1"),
        (Kind::Svm, "\"support\":[[", "1,1"),
        (Kind::Rf, "\"feature\":", "99"),
        (Kind::Rf, "\"low\":", "0"),
        (Kind::Gbt, "\"high\":", "4000000000"),
    ];
    for (kind, key, number) in parameters {
        let wrong = said(kind, &|text| with_number(text, key, number));
        assert!(matches!(wrong, ClassifierError::Parameters { .. }), "{kind} {key} {number}: {wrong}");
    }
    // Means and deviations of the changes, all three of which the label divides by.
    for key in ["\"gain\":{\"hit_rate\":[", "\"network\":[", "\"wait\":["] {
        for number in ["0.0", "-1.0", "1e-300", "1e200"] {
            let wrong = said(Kind::Lr, &|text| with_second(text, key, number));
            assert!(
                matches!(&wrong, ClassifierError::Parameters { what, .. } if what.contains("gain")),
                "{key} {number}: {wrong}"
            );
        }
    }
    let other = said(Kind::Rf, &|text| text.replace("\"kind\":\"rf\"", "\"kind\":\"lr\""));
    assert!(matches!(other, ClassifierError::Parameters { .. }));
}

#[test]
fn a_rate_that_no_step_can_have_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.json");
    model(Kind::Lr).write(&path).unwrap();
    for rate in [f64::NAN, f64::INFINITY, -0.1, 1.5] {
        let refused = ClassifierController::open(&path, rate).unwrap_err();
        assert!(matches!(refused, ClassifierError::Rate(_)), "{refused}");
    }
    assert!(ClassifierController::open(&path, 0.0).is_ok() && ClassifierController::open(&path, 1.0).is_ok());
}

#[test]
fn a_huge_file_is_refused_unread_and_a_missing_one_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.json");
    std::fs::File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
    assert!(matches!(Model::read(&path), Err(ClassifierError::TooLarge { .. })));
    // Of no size, and without an end.
    assert!(matches!(Model::read(Path::new("/dev/zero")), Err(ClassifierError::TooLarge { .. })));
    let missing = Model::read(&dir.path().join("none.json")).unwrap_err();
    assert!(matches!(&missing, ClassifierError::Read { .. }) && missing.to_string().contains("none.json"));
}

#[test]
fn the_same_seed_gives_the_same_model_and_a_file_gives_it_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let probes = world(200, 9, line);
    for kind in Kind::ALL {
        let path = dir.path().join(kind.name());
        let trained = model(kind);
        assert_eq!(trained, model(kind), "{kind} twice");
        trained.write(&path).unwrap();
        let read = Model::read(&path).unwrap();
        assert_eq!(trained, read, "{kind}");
        let bits = |model: &Model| {
            let head = model.head(Task::Replace).unwrap();
            probes.iter().map(|probe| head.probability(&probe.features).to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(&trained), bits(&read), "{kind}");
        assert!(bits(&read).windows(2).any(|pair| pair[0] != pair[1]), "{kind} says the same of everything");
    }
}
