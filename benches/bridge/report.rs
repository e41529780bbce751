//! The table: each row is printed as soon as it is known, and all are written as JSON in the end.

use std::path::Path;

use serde_json::{Map, Value, json};

/// One figure of a row.
pub struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
}

pub fn figure(name: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { name, value, unit }
}

pub struct Report {
    machine: Map<String, Value>,
    rows: Vec<Value>,
}

impl Report {
    pub fn new(machine: Map<String, Value>) -> Report {
        for (name, value) in &machine {
            println!("{name:<20} {}", value.as_str().unwrap_or_default());
        }
        println!();
        Report { machine, rows: Vec::new() }
    }

    pub fn add(&mut self, section: &str, name: &str, figures: impl IntoIterator<Item = Figure>) {
        let figures: Vec<Figure> = figures.into_iter().collect();
        let printed: Vec<String> = figures.iter().map(Figure::to_string).collect();
        println!("{section:<8} {name:<50} {}", printed.join("   ").trim_end());
        let figures: Map<String, Value> =
            figures.iter().map(|f| (f.name.to_owned(), json!({"value": f.value, "unit": f.unit}))).collect();
        self.rows.push(json!({"section": section, "name": name, "figures": figures}));
    }

    /// Says why a row is missing.
    pub fn left_out(&self, section: &str, why: &str) {
        println!("{section:<8} {why}");
    }

    pub fn write(&self, path: &Path) {
        let report = json!({"machine": self.machine, "rows": self.rows});
        std::fs::write(path, format!("{report:#}\n")).unwrap();
        println!("\nwritten to {}", path.display());
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = match self.value.abs() {
            1000.0.. => grouped(self.value),
            100.0.. => format!("{:.0}", self.value),
            10.0.. => format!("{:.1}", self.value),
            _ => format!("{:.2}", self.value),
        };
        write!(f, "{} {number:>7} {:<5}", self.name, self.unit)
    }
}

/// `12,345`
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
