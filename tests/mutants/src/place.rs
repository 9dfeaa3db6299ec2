//! Puts the mutants of one file into its text, each behind its switch.

use std::collections::BTreeMap;
use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, ReturnType, Type};

use crate::more::may_go;
use crate::text::{Edits, begin, end};

/// One mutant, as `cargo mutants --list --json` names it.
#[derive(Clone, Debug)]
pub struct Mutant {
    pub id: u32,
    pub file: String,
    pub name: String,
    pub genre: String,
    pub replacement: String,
    /// Line and column where it begins, both from 1.
    pub start: (usize, usize),
}

/// A file with its mutants, and those that found no place with the reason.
pub struct Placed {
    pub text: String,
    pub left_out: Vec<(u32, &'static str)>,
}

/// Puts these mutants into a file.
pub fn place(original: &str, mutants: &[&Mutant]) -> Placed {
    let lines: Vec<usize> = std::iter::once(0)
        .chain(original.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let mut waiting: BTreeMap<(usize, &str), Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        let (line, column) = mutant.start;
        let line = lines[line - 1];
        let chars = original[line..].char_indices().nth(column - 1);
        let at = line + chars.map_or(0, |(at, _)| at);
        let key = (at, mutant.genre.as_str());
        waiting.entry(key).or_default().push(mutant);
    }
    let mut placer = Placer {
        original,
        waiting,
        edits: Edits::default(),
        left_out: Vec::new(),
        is_const: false,
    };
    let file = syn::parse_file(original).expect("the file is Rust");
    placer.visit_file(&file);
    let lost = placer.waiting.values().flatten();
    let lost: Vec<_> = lost.map(|m| (m.id, "not found")).collect();
    placer.left_out.extend(lost);
    Placed {
        text: placer.edits.apply(original),
        left_out: placer.left_out,
    }
}

struct Placer<'a> {
    original: &'a str,
    /// Those without a place yet, by their offset and genre.
    waiting: BTreeMap<(usize, &'a str), Vec<&'a Mutant>>,
    edits: Edits,
    left_out: Vec<(u32, &'static str)>,
    /// Within a constant expression, which cannot read the switch.
    is_const: bool,
}

fn on(mutant: &Mutant) -> String {
    format!("crate::mutant::on({})", mutant.id)
}

fn ids(mutants: &[&Mutant]) -> Vec<u32> {
    mutants.iter().map(|m| m.id).collect()
}

fn range(of: &impl Spanned) -> Range<usize> {
    of.span().byte_range()
}

/// Whether an operator is `+=` or one of its kind.
fn assigns(op: &syn::BinOp) -> bool {
    use syn::BinOp::*;
    let arithmetic = matches!(
        op,
        AddAssign(_) | SubAssign(_) | MulAssign(_) | DivAssign(_) | RemAssign(_)
    );
    let bits = matches!(op, BitXorAssign(_) | BitAndAssign(_) | BitOrAssign(_));
    arithmetic || bits || matches!(op, ShlAssign(_) | ShrAssign(_))
}

/// Whether an expression is a chain with `let` in it, which cannot stand in parentheses.
fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(b) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}

impl<'a> Placer<'a> {
    /// The mutants of this genre that begin here.
    fn take(&mut self, at: usize, genre: &'a str) -> Vec<&'a Mutant> {
        let mutants = self.waiting.remove(&(at, genre)).unwrap_or_default();
        if self.is_const {
            self.leave_out(&mutants, "constant");
            return Vec::new();
        }
        mutants
    }

    fn leave_out(&mut self, mutants: &[&Mutant], why: &'static str) {
        self.left_out.extend(mutants.iter().map(|m| (m.id, why)));
    }

    /// Another value of a function: it returns that before anything else.
    fn function(&mut self, output: &ReturnType, block: &syn::Block) {
        let Some(first) = block.stmts.first() else {
            return;
        };
        let mutants = self.take(range(first).start, "FnValue");
        if mutants.is_empty() {
            return;
        }
        let one_of_many =
            matches!(output, ReturnType::Type(_, of) if matches!(**of, Type::ImplTrait(_)));
        let right = "crate::mutant::Either::Right(";
        let mut text = String::new();
        for (n, mutant) in mutants.iter().enumerate() {
            let value = if one_of_many {
                let left = format!("crate::mutant::Either::Left({})", mutant.replacement);
                format!("{}{left}{}", right.repeat(n), ")".repeat(n))
            } else {
                mutant.replacement.clone()
            };
            let begin = begin([mutant.id]);
            text += &format!("{begin}if {} {{ return {value}; }}{}", on(mutant), end());
        }
        let braces = block.brace_token.span;
        if one_of_many {
            text += &format!("{}{}{{", begin(ids(&mutants)), right.repeat(mutants.len()));
            let close = format!("}}{}{}", ")".repeat(mutants.len()), end());
            self.edits.close(braces.close().byte_range().start, close);
        }
        self.edits.open(braces.open().byte_range().end, text);
    }

    /// A field's value behind the beginning of a choice.
    fn choose(&mut self, field: &syn::FieldValue, choice: String) {
        let at = range(field);
        if field.colon_token.is_none() {
            let name = &self.original[range(&field.member)];
            self.edits.open(at.start, format!("{name}: {choice}"));
        } else {
            self.edits.open(range(&field.expr).start, choice);
        }
        self.edits.close(at.end, format!(" }}{}", end()));
    }

    /// `a && b` and `a || b`: one is the other with both sides and the result negated.
    fn logical(&mut self, expr: &syn::ExprBinary, mutants: &[&Mutant]) {
        if has_let(&expr.left) || has_let(&expr.right) {
            self.leave_out(mutants, "does not compile: `let` beside it");
            return;
        }
        let on = on(mutants[0]);
        let op = range(&expr.op);
        let begin = begin(ids(mutants));
        let (from, to) = (range(&expr.left).start, range(&expr.right).end);
        self.edits.open(from, format!("{begin}(((("));
        let middle = format!(") ^ {on}) {} ((", &self.original[op.clone()]);
        self.edits.replace(op, middle);
        self.edits.close(to, format!(") ^ {on})) ^ {on}){}", end()));
    }

    /// All other binary operators: both sides are evaluated once, then the operator is chosen.
    fn binary(&mut self, expr: &syn::ExprBinary, mutants: &[&Mutant]) {
        let op = range(&expr.op);
        let own = self.original[op.clone()].to_owned();
        let assigns = assigns(&expr.op);
        let compares = !assigns && (own.contains(['<', '>', '=']) && own != "<<" && own != ">>");
        let (left, right) = match (assigns, compares) {
            (true, _) => ("*l", "r"),
            (_, true) => ("*l", "*r"),
            _ => ("l", "r"),
        };
        let mut choice = String::new();
        for mutant in mutants {
            let text = format!("{left} {} {right}", mutant.replacement);
            let (begin, end) = (begin([mutant.id]), end());
            choice += &format!("if {} {{ {begin}{text}{end} }} else ", on(mutant));
        }
        choice += &format!("{{ {left} {own} {right} }}");
        let (from, to) = (range(&expr.left), range(&expr.right));
        let begin = begin(ids(mutants));
        if assigns {
            // The right side first: it may borrow what the left side changes.
            let place = self.original[from.clone()].to_owned();
            self.edits
                .replace(from.start..op.end, format!("{begin}(match ("));
            let close = format!(
                ") {{ r => match &mut ({place}) {{ l => {choice} }} }}){}",
                end()
            );
            self.edits.close(to.end, close);
            return;
        }
        let reference = if compares { "&" } else { "" };
        self.edits
            .open(from.start, format!("{begin}(match ({reference}("));
        self.edits.replace(op, format!("), {reference}("));
        let close = format!(")) {{ (l, r) => {choice} }}){}", end());
        self.edits.close(to.end, close);
    }
}

impl<'a> Visit<'a> for Placer<'a> {
    fn visit_stmt(&mut self, statement: &'a syn::Stmt) {
        let whole = range(statement);
        if let (true, [mutant]) = (may_go(statement), &self.take(whole.start, "Statement")[..]) {
            let text = format!("{}if !{} {{ ", begin([mutant.id]), on(mutant));
            self.edits.open(whole.start, text);
            self.edits.close(whole.end, format!(" }}{}", end()));
        }
        visit::visit_stmt(self, statement);
    }

    fn visit_expr_method_call(&mut self, expr: &'a syn::ExprMethodCall) {
        if let [mutant] = self.take(range(&expr.method).start, "Call")[..] {
            let begin = begin([mutant.id]);
            self.edits
                .open(range(expr).start, format!("{begin}(match ("));
            let choice = format!(") {{ it => if {} {{ it }} else {{ it.", on(mutant));
            let dot = range(&expr.dot_token);
            self.edits.replace(dot, choice);
            self.edits
                .close(range(expr).end, format!(" }} }}){}", end()));
        }
        visit::visit_expr_method_call(self, expr);
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        let outside = std::mem::replace(&mut self.is_const, item.sig.constness.is_some());
        self.function(&item.sig.output, &item.block);
        visit::visit_item_fn(self, item);
        self.is_const = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        let outside = std::mem::replace(&mut self.is_const, item.sig.constness.is_some());
        self.function(&item.sig.output, &item.block);
        visit::visit_impl_item_fn(self, item);
        self.is_const = outside;
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig.output, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        let outside = std::mem::replace(&mut self.is_const, true);
        visit::visit_item_const(self, item);
        self.is_const = outside;
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        let outside = std::mem::replace(&mut self.is_const, true);
        visit::visit_impl_item_const(self, item);
        self.is_const = outside;
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        let outside = std::mem::replace(&mut self.is_const, true);
        visit::visit_item_static(self, item);
        self.is_const = outside;
    }

    fn visit_expr_binary(&mut self, expr: &'a syn::ExprBinary) {
        let mutants = self.take(range(&expr.op).start, "BinaryOperator");
        if !mutants.is_empty() {
            match expr.op {
                syn::BinOp::And(_) | syn::BinOp::Or(_) => self.logical(expr, &mutants),
                _ => self.binary(expr, &mutants),
            }
        }
        if assigns(&expr.op) {
            // Its left side is replaced as a whole.
            self.visit_expr(&expr.right);
        } else {
            visit::visit_expr_binary(self, expr);
        }
    }

    fn visit_expr_unary(&mut self, expr: &'a syn::ExprUnary) {
        let op = range(&expr.op);
        let mutants = self.take(op.start, "UnaryOperator");
        if let [mutant] = mutants[..] {
            let (begin, on, to) = (begin([mutant.id]), on(mutant), range(&expr.expr).end);
            if matches!(expr.op, syn::UnOp::Not(_)) {
                self.edits.replace(op, format!("{begin}((("));
                self.edits.close(to, format!(")) ^ !{on}){}", end()));
            } else {
                let sign = format!("{begin}((if {on} {{ 1 }} else {{ -1 }}) * (");
                self.edits.replace(op, sign);
                self.edits.close(to, format!(")){}", end()));
            }
        }
        visit::visit_expr_unary(self, expr);
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        let deleted = self.take(range(&arm.pat).start, "MatchArm");
        if let Some((_, guard)) = &arm.guard {
            let guard = range(guard);
            let mut mutants = self.take(guard.start, "MatchArmGuard");
            let begin_all = begin([ids(&mutants), ids(&deleted)].concat());
            let never = deleted.iter().map(|m| on(m));
            let (always, others): (Vec<_>, Vec<_>) =
                mutants.drain(..).partition(|m| m.replacement == "true");
            let never: Vec<String> = never.chain(others.iter().map(|m| on(m))).collect();
            if !always.is_empty() || !never.is_empty() {
                let always: String = always.iter().map(|m| on(m) + " || ").collect();
                let never: String = never.iter().map(|on| format!(" && !{on}")).collect();
                self.edits
                    .open(guard.start, format!("{begin_all}({always}("));
                self.edits.close(guard.end, format!(")){never}{}", end()));
            }
        } else if let [mutant] = deleted[..] {
            let (begin, on, end) = (begin([mutant.id]), on(mutant), end());
            let guard = format!(" {begin}if !{on}{end}");
            self.edits.close(range(&arm.pat).end, guard);
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, expr: &'a syn::ExprStruct) {
        for field in &expr.fields {
            let at = range(field);
            if let [mutant] = self.take(at.start, "Field")[..] {
                let on = on(mutant);
                let choice = format!(
                    "{}if {on} {{ Default::default() }} else {{ ",
                    begin([mutant.id])
                );
                self.choose(field, choice);
            }
            let mutants = self.take(at.start, "StructField");
            let ([mutant], Some(rest)) = (&mutants[..], &expr.rest) else {
                continue;
            };
            let text = |of: Range<usize>| &self.original[of];
            let (of, name) = (text(range(&expr.path)), text(range(&field.member)));
            let rest = text(range(rest));
            let (begin, on) = (begin([mutant.id]), on(mutant));
            let base = format!("{{ let base: {of} = {rest}; base.{name} }}");
            self.choose(field, format!("{begin}if {on} {base} else {{ "));
        }
        visit::visit_expr_struct(self, expr);
    }
}
