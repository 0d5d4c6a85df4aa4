//! What it costs at most to evaluate an expression for a device, known from the expression alone: whoever may write a claim
//! may write any expression, and all of them are evaluated in the task that schedules.
//!
//! A step is about what the interpreter needs for an operator on small values, some 100 ns. Of each value it is bounded how
//! many elements it has and how large it is; devices are as large as the API server lets them be.

use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};

/// Steps that an expression may need for a device: 1 ms. Those of the documentation need fewer than 50.
pub(super) const MOST: u64 = 10_000;
/// Levels of nesting: the interpreter needs a stack for them.
const DEEPEST: u32 = 128;
/// Attributes and capacities that a device has together.
const ATTRIBUTES: u64 = 32;
/// Bytes of a text of a device: the largest are names with their domains.
const TEXT: u64 = 128;
/// Bytes that what is looked at in one step has.
const PER_STEP: u64 = 16;
/// Steps to make ready an ordinary pattern, and for each byte of it.
const PATTERN: (u64, u64) = (200, 10);

/// Bounds of a value.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    /// Elements of it, or of anything in it.
    items: u64,
    /// Bytes of the texts in it.
    bytes: u64,
    /// What it is of the device: how many names lead to it.
    of_device: Option<u8>,
}

const ONE: Size = Size {
    items: 0,
    bytes: 8,
    of_device: None,
};

impl Size {
    /// What some names lead to from the device: its attributes, those of a domain, one of those.
    fn of_device(names: u8) -> Size {
        match names {
            0..=2 => Size {
                items: ATTRIBUTES,
                bytes: ATTRIBUTES * 2 * TEXT,
                of_device: Some(names),
            },
            _ => Size { bytes: TEXT, ..ONE },
        }
    }

    /// Something in it.
    fn inside(self, name: Option<&str>) -> Size {
        match (self.of_device, name) {
            (Some(0), Some("driver" | "allowMultipleAllocations")) => Size::of_device(3),
            (Some(names), _) => Size::of_device(names + 1),
            (None, _) => self,
        }
    }

    /// Both, one beside the other.
    fn with(self, other: Size) -> Size {
        Size {
            items: self.items.saturating_add(other.items),
            bytes: self.bytes.saturating_add(other.bytes),
            of_device: None,
        }
    }

    /// One or the other.
    fn or(self, other: Size) -> Size {
        Size {
            items: self.items.max(other.items),
            bytes: self.bytes.max(other.bytes),
            of_device: None,
        }
    }
}

/// What a walk over an expression has come to.
#[derive(Default)]
struct Walk<'a> {
    steps: u64,
    /// What names stand for, the innermost last.
    names: Vec<(&'a str, Size)>,
    /// How often what is walked over is evaluated.
    times: u64,
}

/// Steps that an expression needs at most.
///
/// # Errors
///
/// If they are too many, or it is nested too deep: in words.
pub(super) fn check(expr: &IdedExpr) -> Result<(), String> {
    let mut walk = Walk {
        times: 1,
        ..Walk::default()
    };
    walk.size_of(expr, 0)?;
    walk.may_go_on()
}

impl<'a> Walk<'a> {
    fn step(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(self.times.saturating_mul(steps));
    }

    fn may_go_on(&self) -> Result<(), String> {
        if self.steps <= MOST {
            return Ok(());
        }
        Err(format!(
            "it could need more than {MOST} steps for a device: look at shorter lists and texts, or split it"
        ))
    }

    fn size_of(&mut self, expr: &'a IdedExpr, depth: u32) -> Result<Size, String> {
        if depth > DEEPEST {
            return Err(format!("it is nested more than {DEEPEST} levels deep: split it"));
        }
        self.step(1);
        self.may_go_on()?;
        let depth = depth + 1;
        Ok(match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => Size {
                bytes: length(text.inner().len()),
                ..ONE
            },
            Expr::Literal(LiteralValue::Bytes(bytes)) => Size {
                bytes: length(bytes.inner().len()),
                ..ONE
            },
            Expr::Ident(name) => {
                let mut known = self.names.iter().rev();
                match known.find(|(known, _)| known == name) {
                    Some((_, size)) => *size,
                    None if name == "device" => Size::of_device(0),
                    None => ONE,
                }
            }
            Expr::Select(select) => self.size_of(&select.operand, depth)?.inside(Some(&select.field)),
            Expr::List(list) => {
                let mut all = Size {
                    items: length(list.elements.len()),
                    ..Size::default()
                };
                for element in &list.elements {
                    all = all.with(self.size_of(element, depth)?);
                }
                all
            }
            Expr::Map(map) => {
                let mut all = Size {
                    items: length(map.entries.len()),
                    ..Size::default()
                };
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        all = all.with(self.size_of(&entry.key, depth)?);
                        all = all.with(self.size_of(&entry.value, depth)?);
                    }
                }
                all
            }
            Expr::Call(call) => self.call(call, depth)?,
            Expr::Comprehension(fold) => self.fold(fold, depth)?,
            _ => ONE,
        })
    }

    fn call(&mut self, call: &'a CallExpr, depth: u32) -> Result<Size, String> {
        let mut parts = Vec::with_capacity(call.args.len() + 1);
        for part in call.target.as_deref().into_iter().chain(&call.args) {
            parts.push(self.size_of(part, depth)?);
        }
        let together = parts.iter().fold(Size::default(), |all, part| all.with(*part));
        let one_of = |parts: &[Size]| parts.iter().fold(Size::default(), |all, part| all.or(*part));
        let name = call.func_name.rsplit('.').next().unwrap_or_default();
        // Values are copied where they are handed on.
        let looked_at = (together.bytes / PER_STEP).saturating_add(together.items);
        Ok(match name {
            "_[_]" | "_[?_]" | "_?._" => {
                let [of, _] = parts.as_slice() else { return Ok(together) };
                let key = call.args.last().and_then(text);
                of.inside(key)
            }
            "_&&_" | "_||_" | "!_" | "@not_strictly_false" => ONE,
            "_?_:_" => one_of(parts.get(1..).unwrap_or_default()),
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "@in" | "startsWith" | "endsWith" | "size"
            | "compareTo" | "isGreaterThan" | "isLessThan" => {
                self.step(looked_at);
                ONE
            }
            "matches" | "find" | "findAll" => {
                let pattern = parts.get(1).copied().unwrap_or_default();
                let written = call.args.get(usize::from(call.target.is_none()));
                let times = written.and_then(text).map_or(1, repetitions);
                let ready = PATTERN.0.saturating_add(pattern.bytes.saturating_mul(PATTERN.1));
                self.step(ready.saturating_mul(times).saturating_add(looked_at));
                match name {
                    "matches" => ONE,
                    _ => listed(together),
                }
            }
            "split" => {
                self.step(looked_at);
                listed(together)
            }
            // Sets are compared each with each.
            "contains" | "equivalent" | "intersects" | "distinct" => {
                self.step(looked_at.saturating_add(together.items.saturating_mul(together.items)));
                one_of(&parts)
            }
            // What comes out is as long as its parts multiplied.
            "replace" | "join" | "flatten" => {
                let product = |of: fn(&Size) -> u64| {
                    let parts = parts.iter().map(of);
                    parts.fold(1_u64, |all, part| all.saturating_mul(part.saturating_add(1)))
                };
                let size = Size {
                    items: product(|part| part.items),
                    bytes: product(|part| part.bytes),
                    of_device: None,
                };
                self.step(
                    looked_at
                        .saturating_add(size.bytes / PER_STEP)
                        .saturating_add(size.items),
                );
                size
            }
            // A number says how long it is.
            "range" | "format" => return Err(format!("{name} is not allowed: how much it makes cannot be told")),
            "quote" | "encode" | "escapeKey" | "getEscapedPath" => {
                self.step(looked_at);
                together.with(together).with(ONE)
            }
            _ => {
                self.step(looked_at);
                together.with(ONE)
            }
        })
    }

    /// A macro: each element of the range has its turn, and adds at most one element to what comes out.
    fn fold(&mut self, fold: &'a ComprehensionExpr, depth: u32) -> Result<Size, String> {
        let range = self.size_of(&fold.iter_range, depth)?;
        let start = self.size_of(&fold.accu_init, depth)?;
        let (before, times) = (self.names.len(), self.times);
        // Of a map it is the keys.
        let element = match range.of_device {
            Some(_) => Size { bytes: TEXT, ..ONE },
            None => range,
        };
        self.names.push((&fold.iter_var, element));
        self.names
            .extend(fold.iter_var2.as_deref().map(|name| (name, range.inside(None))));
        self.names.push((&fold.accu_var, Size::default()));
        self.times = times.saturating_mul(range.items);
        self.size_of(&fold.loop_cond, depth)?;
        let added = self.size_of(&fold.loop_step, depth)?;
        let grown = Size {
            items: added.items.saturating_add(1).saturating_mul(range.items),
            bytes: added.bytes.saturating_mul(range.items),
            of_device: None,
        };
        // It is copied each time.
        self.step((grown.items).saturating_add(grown.bytes / PER_STEP) / 2);
        self.times = times;
        self.names.truncate(before);
        let end = if range.items == 0 { start } else { start.with(grown) };
        self.names.push((&fold.accu_var, end));
        let result = self.size_of(&fold.result, depth);
        self.names.truncate(before);
        result
    }
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Texts cut out of others.
fn listed(of: Size) -> Size {
    Size {
        items: of.bytes.saturating_add(1),
        ..of
    }
}

fn text(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// How much longer a pattern is than it is written: repetitions in braces are written out, one in the other.
fn repetitions(pattern: &str) -> u64 {
    let braces = pattern.split('{').skip(1);
    let numbers = braces.filter_map(|after| after.split('}').next());
    let most = |braces: &str| braces.split(',').filter_map(|number| number.trim().parse().ok()).max();
    numbers.fold(1_u64, |all, braces| {
        all.saturating_mul(most(braces).unwrap_or(1).max(1))
    })
}
