//! Joining the user's user-data with midge's as the parts of one MIME message (RFC 2046, 5.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::user_data::{Format, UserData};

/// How cloud-init joins midge's configuration with what the user said before it (cloud-init's documentation, "Merging user-data
/// sections"): mappings key by key; of two lists midge's entries come first; of two other values the user's stands.
const MERGE: &str = "list(prepend)+dict(no_replace,recurse_list)+str()";
/// Base64 in MIME has lines of at most 76 characters (RFC 2045, 6.8).
const LINE: usize = 76;

/// The message.
pub(super) fn join(user: &UserData, own: &str) -> Vec<u8> {
    let boundary = boundary(user.text());
    let mut out = format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n--{boundary}\n"
    )
    .into_bytes();
    if user.format() == Format::Mime {
        // A message of its own: its header becomes the part's.
        out.extend_from_slice(user.text());
    } else {
        // Of a part of plain text cloud-init tells the kind by its first line.
        out.extend(part("text/plain", "user-data", None, user.text()));
    }
    out.extend(format!("\n--{boundary}\n").into_bytes());
    out.extend(part("text/cloud-config", "midge", Some(MERGE), own.as_bytes()));
    out.extend(format!("\n--{boundary}--\n").into_bytes());
    out
}

fn part(kind: &str, name: &str, merge: Option<&str>, content: &[u8]) -> Vec<u8> {
    let merge = merge.map_or_else(String::new, |how| format!("Merge-Type: {how}\n"));
    let mut part = format!(
        "Content-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\
         Content-Disposition: attachment; filename=\"{name}\"\n{merge}\n"
    );
    let text = BASE64.encode(content);
    for line in text.as_bytes().chunks(LINE) {
        // Base64 is ASCII.
        part.push_str(&String::from_utf8_lossy(line));
        part.push('\n');
    }
    part.into_bytes()
}

/// A boundary that is nowhere in the text.
fn boundary(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut boundary = "==midge==".to_owned();
    let mut number = 0u64;
    while text.contains(&boundary) {
        number += 1;
        boundary = format!("==midge-{number}==");
    }
    boundary
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's reader of messages is cloud-init's.
    fn parts(message: &[u8]) -> Vec<serde_json::Value> {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let script = "import sys, json, email\n\
                      m = email.message_from_bytes(sys.stdin.buffer.read())\n\
                      assert not m.defects, m.defects\n\
                      print(json.dumps([[p.get_content_type(), p.get('Merge-Type'), p.get_payload(decode=True).decode()]\n\
                      for p in m.walk() if not p.is_multipart()]))";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is here: scripts/setup.sh --tests installs it");
        child.stdin.take().unwrap().write_all(message).unwrap();
        let output = child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn each_kind_of_user_data_is_a_part_beside_midges() {
        let own = "#cloud-config\n{}\n";
        let scripts = [
            "#!/bin/sh\necho é\n--==midge==\n",
            "#cloud-config\na: no\n",
            "## template: jinja\n#cloud-config\n",
        ];
        for text in scripts {
            let user = UserData::read(text.as_bytes()).unwrap();
            let parts = parts(&join(&user, own));
            assert_eq!(
                parts,
                [
                    serde_json::json!(["text/plain", null, text]),
                    serde_json::json!(["text/cloud-config", MERGE, own]),
                ]
            );
        }
        let archive = "Content-Type: multipart/mixed; boundary=\"B\"\nMIME-Version: 1.0\n\n--B\nContent-Type: \
                       text/x-shellscript\n\n#!/bin/sh\n--B\nContent-Type: text/cloud-config\n\nb: 1\n--B--\n";
        let user = UserData::read(archive.as_bytes()).unwrap();
        let parts = parts(&join(&user, own));
        assert_eq!(parts.len(), 3, "{parts:?}");
        assert_eq!(parts[0], serde_json::json!(["text/x-shellscript", null, "#!/bin/sh"]));
        assert_eq!(parts[2][2], own);
    }
}
