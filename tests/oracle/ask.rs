//! The process that answers with kube-scheduler's verdicts.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use duosuan_embedded::Tool;
use serde::Deserialize;
use serde_json::Value;

/// Why a node does not take the pod.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) plugin: String,
    pub(crate) reasons: Vec<String>,
}

/// By node.
pub(crate) type Verdicts = BTreeMap<String, Option<Refusal>>;

#[derive(Deserialize)]
struct Answer {
    verdicts: Option<Verdicts>,
    error: Option<String>,
}

/// Ended when it is dropped.
pub(crate) struct Oracle {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    pub(crate) fn start() -> Oracle {
        let binary = duosuan_embedded::build(Tool::Oracle, &mut |step| println!("{step}")).unwrap();
        let mut child = Command::new(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Oracle {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// Asks about each snapshot.
    pub(crate) fn ask(&mut self, snapshots: &[Value]) -> Vec<Result<Verdicts, String>> {
        let (input, output) = (self.input.as_mut().unwrap(), &mut self.output);
        // Answers are read while questions are written: a pipe holds little.
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for snapshot in snapshots {
                    writeln!(input, "{snapshot}").unwrap();
                }
            });
            snapshots.iter().map(|_| read(output)).collect()
        })
    }
}

fn read(output: &mut BufReader<ChildStdout>) -> Result<Verdicts, String> {
    let mut line = String::new();
    assert!(
        output.read_line(&mut line).unwrap() > 0,
        "the oracle ended; its last words are above"
    );
    let answer: Answer = serde_json::from_str(&line).unwrap_or_else(|e| panic!("the oracle said {line:?}: {e}"));
    answer.verdicts.ok_or_else(|| answer.error.unwrap_or(line))
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.input = None;
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}
