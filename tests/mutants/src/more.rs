//! Mutants that `cargo mutants` does not make: a statement is not done, a field has its default
//! value, a call in a chain is left out. They show what is not passed on.

use std::path::Path;

use serde_json::{Value, json};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Whether a statement may be left out: an assignment or a call.
pub fn may_go(statement: &syn::Stmt) -> bool {
    use syn::Expr::{Assign, Await, Binary, Call, MethodCall, Try};
    let syn::Stmt::Expr(expr, Some(_)) = statement else {
        return false;
    };
    matches!(
        expr,
        Assign(_) | Await(_) | Binary(_) | Call(_) | MethodCall(_) | Try(_)
    )
}

/// Lists the mutants of these files below `root`, in the form of `cargo mutants --list --json`.
pub fn list(root: &Path, files: &[String]) -> Value {
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(root.join(file)).expect("a source");
        let mut finder = Finder {
            file,
            text: &text,
            found: &mut found,
        };
        finder.visit_file(&syn::parse_file(&text).expect("the file is Rust"));
    }
    Value::Array(found)
}

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    found: &'a mut Vec<Value>,
}

impl Finder<'_> {
    fn add(&mut self, genre: &str, what: &str, of: &impl Spanned) {
        let (range, start) = (of.span().byte_range(), of.span().start());
        let (line, column) = (start.line, start.column + 1);
        let words: Vec<&str> = self.text[range].split_whitespace().collect();
        let text: String = words.join(" ").chars().take(90).collect();
        let name = format!("{}:{line}:{column}: {what} {text}", self.file);
        let start = json!({"line": line, "column": column});
        self.found.push(json!({
            "file": self.file, "name": name, "genre": genre, "replacement": "",
            "span": {"start": start},
        }));
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !item.attrs.iter().any(|a| a.path().is_ident("cfg")) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_stmt(&mut self, statement: &'a syn::Stmt) {
        if may_go(statement) {
            self.add("Statement", "without", statement);
        }
        visit::visit_stmt(self, statement);
    }

    fn visit_expr_struct(&mut self, expr: &'a syn::ExprStruct) {
        for field in &expr.fields {
            self.add("Field", "default of field", field);
        }
        visit::visit_expr_struct(self, expr);
    }

    fn visit_expr_method_call(&mut self, expr: &'a syn::ExprMethodCall) {
        let name = expr.method.to_string();
        // Those that only make another type of it do not compile, or change nothing.
        if !["clone", "into", "iter", "collect", "unwrap"].contains(&name.as_str()) {
            self.add("Call", "without call", &expr.method);
        }
        visit::visit_expr_method_call(self, expr);
    }
}
