//! Selectors of devices: expressions in CEL, about one device each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use kube_cel::{
    KubeCelExt,
    cel::{
        Context, Program, Value,
        common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue},
    },
};

use crate::lean::dra::Attribute;

mod cost;

/// Bytes of an expression, as the API server has it.
const LONGEST: usize = 10 * 1024;
/// Bytes of the stack on which expressions are read: the longest one is nested thousands of levels deep at most.
const STACK: usize = 64 << 20;

/// What an expression can see of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Name of its driver.
    pub driver: String,
    /// Several claims may have it at once.
    pub shared: bool,
    /// Attributes, by domain and name.
    pub attributes: BTreeMap<(String, String), Attribute>,
    /// Capacity, by domain and name, as it is written.
    pub capacity: BTreeMap<(String, String), String>,
}

/// The functions that expressions can call. To list them takes longer than to call one: they serve many evaluations.
pub struct Functions(Context<'static>);

impl Default for Functions {
    fn default() -> Self {
        Self(Context::default().with_all())
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").finish_non_exhaustive()
    }
}

/// An expression that can be evaluated.
#[derive(Clone, Debug)]
pub struct Expression {
    expr: IdedExpr,
    /// Texts that stand in it: a domain that it asks for and that a device does not have is empty, and no error.
    texts: BTreeSet<String>,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// If it is none, in words.
    pub fn read(text: &str) -> Result<Expression, String> {
        if text.len() > LONGEST {
            return Err(format!(
                "CEL compile error: it has {} bytes, and {LONGEST} are the most",
                text.len()
            ));
        }
        // Nothing that somebody writes into an object may end the operator, whatever the parser makes of it.
        let read = || catch_unwind(|| Expression::parse(text)).unwrap_or_else(|_| Err("it cannot be read".to_owned()));
        let read = std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, read);
            let reader = reader.map_err(|error| format!("there is no thread to read it: {error}"))?;
            reader.join().unwrap_or_else(|_| Err("it cannot be read".to_owned()))
        });
        read.map_err(|error| format!("CEL compile error: {error}"))
    }

    fn parse(text: &str) -> Result<Expression, String> {
        let program = Program::compile(text).map_err(|error| error.to_string())?;
        cost::check(program.expression())?;
        let mut expr = program.expression().clone();
        let mut texts = BTreeSet::new();
        rewrite(&mut expr, &mut texts);
        // What bindings stand for is known only now.
        cost::check(&expr)?;
        Ok(Expression { expr, texts })
    }

    /// True if it means a device.
    ///
    /// # Errors
    ///
    /// If it cannot be evaluated for this one, in words.
    pub fn means(&self, device: &Seen, functions: &Functions) -> Result<bool, String> {
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let mut context = functions.0.new_inner_scope();
            context.add_variable_from_value("device", self.value_of(device, &functions.0)?);
            context.resolve(&self.expr).map_err(|error| error.to_string())
        }));
        match evaluated {
            Ok(Ok(Value::Bool(means))) => Ok(means),
            Ok(Ok(other)) => Err(format!(
                "CEL runtime error: it comes to a value of type {} and not to a bool",
                other.type_of()
            )),
            Ok(Err(error)) => Err(format!("CEL runtime error: {error}")),
            Err(_) => Err("CEL runtime error: it cannot be evaluated".to_owned()),
        }
    }

    fn value_of(&self, device: &Seen, context: &Context<'_>) -> Result<Value, String> {
        let mut attributes = self.domains();
        for ((domain, name), attribute) in &device.attributes {
            let value = match attribute {
                Attribute { int: Some(int), .. } => Value::Int(*int),
                Attribute { bool: Some(bool), .. } => Value::Bool(*bool),
                Attribute { string: Some(text), .. } => Value::String(Arc::new(text.clone())),
                Attribute {
                    version: Some(text), ..
                } => of_function("semver", text, context)?,
                // Lists, which servers do not serve without being asked to.
                _ => return Err(format!("attribute {domain}/{name} has a value of an unknown kind")),
            };
            attributes
                .entry(domain.clone())
                .or_default()
                .insert(name.clone(), value);
        }
        let mut capacity = self.domains();
        for ((domain, name), text) in &device.capacity {
            let value = of_function("quantity", text, context)?;
            capacity.entry(domain.clone()).or_default().insert(name.clone(), value);
        }
        let fields: HashMap<String, Value> = [
            ("driver".to_owned(), Value::String(Arc::new(device.driver.clone()))),
            ("allowMultipleAllocations".to_owned(), Value::Bool(device.shared)),
            ("attributes".to_owned(), attributes.into()),
            ("capacity".to_owned(), capacity.into()),
        ]
        .into();
        Ok(fields.into())
    }

    fn domains(&self) -> HashMap<String, HashMap<String, Value>> {
        self.texts.iter().map(|text| (text.clone(), HashMap::new())).collect()
    }
}

fn unnumbered(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

/// The value that a function of Kubernetes makes of a text.
fn of_function(name: &str, text: &str, context: &Context<'_>) -> Result<Value, String> {
    let call = CallExpr {
        func_name: name.to_owned(),
        target: None,
        args: vec![unnumbered(Expr::Literal(LiteralValue::String(text.into())))],
    };
    let call = unnumbered(Expr::Call(call));
    context.resolve(&call).map_err(|error| error.to_string())
}

/// Makes of `cel.bind(name, value, body)`, which the interpreter does not know, what it stands for: a fold over nothing
/// that begins with the value and comes to the body. Notes the texts that stand in the expression.
fn rewrite(expr: &mut IdedExpr, texts: &mut BTreeSet<String>) {
    match &mut expr.expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| rewrite(target, texts));
            call.args.iter_mut().for_each(|argument| rewrite(argument, texts));
        }
        Expr::Comprehension(fold) => {
            let parts = [
                &mut fold.iter_range,
                &mut fold.accu_init,
                &mut fold.loop_cond,
                &mut fold.loop_step,
                &mut fold.result,
            ];
            parts.into_iter().for_each(|part| rewrite(part, texts));
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|element| rewrite(element, texts)),
        Expr::Select(select) => rewrite(&mut select.operand, texts),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    rewrite(&mut entry.key, texts);
                    rewrite(&mut entry.value, texts);
                }
            }
        }
        Expr::Literal(LiteralValue::String(text)) => drop(texts.insert(text.inner().to_owned())),
        _ => {}
    }
    if let Some(fold) = bound(&expr.expr) {
        expr.expr = fold;
    }
}

fn bound(expr: &Expr) -> Option<Expr> {
    let Expr::Call(CallExpr {
        func_name,
        target: Some(target),
        args,
    }) = expr
    else {
        return None;
    };
    let (Expr::Ident(of), "bind", [name, value, body]) = (&target.expr, func_name.as_str(), args.as_slice()) else {
        return None;
    };
    let (Expr::Ident(name), "cel") = (&name.expr, of.as_str()) else {
        return None;
    };
    Some(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: unnumbered(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "#unused".to_owned(),
        iter_var2: None,
        accu_var: name.clone(),
        accu_init: value.clone(),
        loop_cond: unnumbered(Expr::Literal(LiteralValue::Boolean(false.into()))),
        loop_step: unnumbered(Expr::Ident(name.clone())),
        result: body.clone(),
    })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn gpu() -> Seen {
        let attribute = |name: &str, attribute: Attribute| (("gpu.example.com".to_owned(), name.to_owned()), attribute);
        Seen {
            driver: "gpu.example.com".into(),
            shared: true,
            attributes: [
                attribute(
                    "model",
                    Attribute {
                        string: Some("A100".into()),
                        ..Attribute::default()
                    },
                ),
                attribute(
                    "index",
                    Attribute {
                        int: Some(3),
                        ..Attribute::default()
                    },
                ),
                attribute(
                    "ecc",
                    Attribute {
                        bool: Some(true),
                        ..Attribute::default()
                    },
                ),
                attribute(
                    "driverVersion",
                    Attribute {
                        version: Some("12.4.1".into()),
                        ..Attribute::default()
                    },
                ),
            ]
            .into(),
            capacity: [(("gpu.example.com".to_owned(), "memory".to_owned()), "80Gi".to_owned())].into(),
        }
    }

    fn means(text: &str) -> Result<bool, String> {
        Expression::read(text)?.means(&gpu(), &Functions::default())
    }

    /// The examples of the documentation of Kubernetes, and what people write beside them.
    #[test]
    fn expressions_mean_what_kubernetes_says() {
        for (text, expected) in [
            ("device.driver == 'gpu.example.com'", true),
            ("device.driver == \"other.example.com\"", false),
            ("device.attributes['gpu.example.com'].model == 'A100'", true),
            (
                "device.attributes[\"gpu.example.com\"].model.lowerAscii().matches('^a1[0-9]+$')",
                true,
            ),
            ("device.attributes['gpu.example.com'].index in [1, 2, 3]", true),
            ("device.attributes['gpu.example.com'].index > 3", false),
            (
                "device.attributes['gpu.example.com'].ecc && device.allowMultipleAllocations",
                true,
            ),
            (
                "device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) >= 0",
                true,
            ),
            (
                "device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('80Gi'))",
                false,
            ),
            ("device.capacity['gpu.example.com'].memory == quantity('81920Mi')", true),
            (
                "device.attributes['gpu.example.com'].driverVersion.isGreaterThan(semver('12.0.0'))",
                true,
            ),
            (
                "device.attributes['gpu.example.com'].driverVersion.compareTo(semver('12.4.1')) == 0",
                true,
            ),
            ("'model' in device.attributes['gpu.example.com']", true),
            ("'model' in device.attributes['other.example.com']", false),
            ("has(device.attributes['gpu.example.com'].serial)", false),
            ("has(device.attributes['other.example.com'].model)", false),
            (
                "has(device.attributes['other.example.com'].model) || device.driver.startsWith('gpu.')",
                true,
            ),
            (
                "cel.bind(gpu, device.attributes['gpu.example.com'], gpu.model == 'A100' && gpu.ecc)",
                true,
            ),
            (
                "cel.bind(a, 1, cel.bind(b, a + 1, b == 2)) && ['x'].exists(x, x == 'x')",
                true,
            ),
            ("true", true),
        ] {
            assert_eq!(means(text), Ok(expected), "{text}");
        }
    }

    /// Whoever may write a claim may write these. Each would take seconds or all memory, or end the operator.
    #[test]
    fn what_could_take_long_is_refused_before_it_is_evaluated() {
        let nested = |levels: usize| {
            let digits = "[0,1,2,3,4,5,6,7,8,9]";
            let all = (0..levels).map(|i| format!("{digits}.all(x{i}, "));
            all.collect::<String>() + "true" + &")".repeat(levels)
        };
        let doubled = |levels: usize| {
            let bound = (0..levels).map(|i| format!("cel.bind(a{}, a{i} + a{i}, ", i + 1));
            let bound = bound.collect::<String>() + &format!("a{levels} == ''") + &")".repeat(levels);
            format!("cel.bind(a0, device.driver, {bound})")
        };
        let sum = |terms: usize| vec!["1"; terms].join("+") + " == 0";
        for text in [
            nested(4),
            nested(40),
            doubled(30),
            sum(4_000),
            "device.driver.matches('((a{1000}){1000}){1000}')".into(),
            "lists.range(1000000000).size() == 1".into(),
            "'%.999999999f'.format([1.0]) == ''".into(),
            format!(
                "{}.map(x, x + 'a').map(y, y + 'b').join('{0}') == ''",
                format!("['{}']", "x".repeat(2_000))
            ),
            format!(
                "device.driver.replace('', '{0}').replace('', '{0}') == ''",
                "x".repeat(900)
            ),
            format!("'{}' == ''", "x".repeat(LONGEST)),
        ] {
            let error = Expression::read(&text).unwrap_err();
            assert!(error.starts_with("CEL compile error: "), "{error}");
        }
        for text in [
            nested(2),
            doubled(3).replace("== ''", "!= ''"),
            sum(50).replace("== 0", "== 50"),
            "device.driver.matches('^gpu[.][a-z]{1,20}[.]com$')".into(),
            "device.attributes['gpu.example.com'].exists(name, name.startsWith('mod'))".into(),
            "device.attributes['gpu.example.com'].model.replace('A', 'H') == 'H100'".into(),
            "device.attributes['gpu.example.com'].model.split('1').size() == 2".into(),
            "['A100', 'H100'].filter(m, device.attributes['gpu.example.com'].model == m).size() == 1".into(),
        ] {
            assert_eq!(means(&text), Ok(true), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error_in_words_and_ends_nothing() {
        for (text, words) in [
            ("device.attributes['gpu.example.com'].serial == 'x'", "serial"),
            ("device.attributes['other.example.com'].model == 'x'", "model"),
            ("device.nothing", "nothing"),
            ("unknown(device)", "unknown"),
            ("1 + 1", "not to a bool"),
            ("1 / 0 == 1", "CEL runtime error"),
            ("device.driver ==", "CEL compile error"),
            ("", "CEL compile error"),
            ("'", "CEL compile error"),
            ("((((", "CEL compile error"),
            (
                "device.attributes['gpu.example.com'].model.matches('(')",
                "CEL runtime error",
            ),
        ] {
            let error = means(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
