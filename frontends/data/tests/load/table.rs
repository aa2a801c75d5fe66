//! Tables.

use ffc_data::{DataError, Dataset, LoadOptions, fuzz, load};

use super::build::folder;
use super::{floats, load_all, text};

fn read(table: &str) -> Result<Dataset, DataError> {
    fuzz::csv(table.as_bytes(), &LoadOptions::default())
}

/// The text and the help for a table.
fn refusal(table: &str) -> (String, Option<&'static str>) {
    let error = read(table).expect_err("the file is wrong");
    (error.to_string(), error.help())
}

#[test]
fn every_sixth_row_is_test() {
    let rows: String = (0..13).map(|i| format!("{i},{},-{i}.5\n", i % 3)).collect();
    let dataset = read(&format!("a,label,b\n{rows}")).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len()), (11, 2));
    assert_eq!(floats(&dataset.test.features), [5.0, -5.5, 11.0, -11.5]);
    assert_eq!(dataset.test.labels, [2, 2]);
    assert_eq!(floats(&dataset.train.features)[8..12], [4.0, -4.5, 6.0, -6.5]);
    assert_eq!((dataset.classes, dataset.shape), (3, vec![2]));
}

#[test]
fn a_split_column_decides() {
    let dataset = read("label,split,x\n0,test,1\n1,train,2\n0,train,3\n").unwrap();
    assert_eq!(floats(&dataset.train.features), [2.0, 3.0]);
    assert_eq!(floats(&dataset.test.features), [1.0]);
    let (text, _) = refusal("label,split,x\n0,test,1\n1,validation,2\n");
    assert_eq!(text, "'fuzz' line 3, column 'split': 'validation' is neither 'train' nor 'test'");
}

#[test]
fn names_are_numbered_in_sorted_order() {
    let dataset = read("x,split,label\n1,train,pear\n2,train,apple\n3,test,\"a, b\"\n4,train,7\n").unwrap();
    assert_eq!(dataset.class_names, ["7", "a, b", "apple", "pear"]);
    assert_eq!((dataset.train.labels, dataset.test.labels), (vec![3, 2, 0], vec![1]));
}

#[test]
fn integers_are_class_numbers() {
    let dataset = read("x,split,label\n1,train,010\n2,test,2\n").unwrap();
    assert_eq!((dataset.classes, dataset.class_names[10].as_str()), (11, "10"));
    assert_eq!((dataset.train.labels, dataset.test.labels), (vec![10], vec![2]));
    let (text, help) = refusal("x,label\n1,65536\n");
    assert_eq!(text, "'fuzz' has label 65536, beyond the 65536 classes possible");
    assert!(help.unwrap().starts_with("labels are classes, not measured values"));
}

#[test]
fn windows_files_and_spaces_are_read() {
    let dataset = read("\u{feff} label , x , split\r\n 1 , 1e-3 , train\r\n\r\n0,+2, test \r\n").unwrap();
    assert_eq!(floats(&dataset.train.features), [0.001]);
    assert_eq!(floats(&dataset.test.features), [2.0]);
}

#[test]
fn two_tables_make_a_data_set() {
    let folder = folder(&[("train.csv", b"x,label\n1,a\n2,c\n3,a\n"), ("test.csv", b"x,label\n4,b\n5,a\n")]);
    let dataset = load_all(folder.path()).unwrap();
    assert_eq!(dataset.class_names, ["a", "b", "c"]);
    assert_eq!((&dataset.train.labels, &dataset.test.labels), (&vec![0, 2, 0], &vec![1, 0]));
    assert_eq!(floats(&dataset.test.features), [4.0, 5.0]);

    let options = LoadOptions { limit_train: Some(1), limit_test: Some(1), ..LoadOptions::default() };
    let dataset = load(folder.path(), &options).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len(), dataset.classes), (1, 1, 3));
}

#[test]
fn two_tables_that_do_not_fit() {
    let both = |train: &[u8], test: &[u8]| {
        let folder = folder(&[("train.csv", train), ("test.csv", test)]);
        let error = load_all(folder.path()).unwrap_err();
        text(&error, folder.path())
    };
    assert_eq!(
        both(b"x,label\n1,0\n", b"label,x\n0,1\n"),
        "'train.csv' has splits that differ: train has columns 'x', 'label', test has columns \
         'label', 'x'"
    );
    assert_eq!(
        both(b"x,label,split\n1,0,train\n", b"x,label,split\n1,0,test\n"),
        "'train.csv' has a column 'split', but is one split of two"
    );
    assert_eq!(both(b"x,label\n1,0\n", b"x,label\n"), "the test split has no samples");
}

#[test]
fn limits_stop_the_parser() {
    let table = b"x,label,split\n1,0,train\n2,1,test\nnot a number,2,train\n";
    let options = LoadOptions { limit_train: Some(1), limit_test: None, ..LoadOptions::default() };
    let dataset = fuzz::csv(table, &options).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len(), dataset.classes), (1, 1, 3));
}

#[test]
fn values_that_are_no_numbers() {
    let (text, help) = refusal("label,width,split\n0,1,train\n1,NaN,train\n1,2,test\n");
    assert_eq!(text, "'fuzz' line 3, column 'width': NaN is not finite as a 32-bit float");
    assert_eq!(help, Some("remove or fill in such values"));
    let (text, _) = refusal("label,width,split\n0,1e39,train\n1,2,test\n");
    assert_eq!(text, "'fuzz' line 2, column 'width': 1e39 is not finite as a 32-bit float");
    let (text, help) = refusal("label,colour,split\n0,red\u{7},train\n1,2,test\n");
    assert_eq!(text, "'fuzz' line 2, column 'colour': 'red\\u{7}' is not a number");
    assert_eq!(help, Some("remove the column, or replace its values by numbers"));
    let (text, help) = refusal("label,width,split\n0,,train\n1,2,test\n");
    assert_eq!(text, "'fuzz' line 2, column 'width': the value is missing");
    assert_eq!(help, Some("remove the row, or fill the value in"));
    let (text, _) = refusal("label,width,split\n ,1,train\n1,2,test\n");
    assert_eq!(text, "'fuzz' line 2, column 'label': the value is missing");
    let error = fuzz::csv(b"label,x\n\xff,1\n", &LoadOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "'fuzz' line 2, column 'label': the text is not UTF-8");
}

#[test]
fn long_values_are_shortened() {
    let (text, _) = refusal(&format!("label,x,split\n0,{},train\n1,2,test\n", "y".repeat(999)));
    assert_eq!(text, format!("'fuzz' line 2, column 'x': '{}...' is not a number", "y".repeat(60)));
}

#[test]
fn headers_that_are_none() {
    let (text, help) = refusal("1,2,3\n4,5,6\n");
    assert_eq!(text, "'fuzz' has no column 'label'; its first line has '1', '2', '3'");
    assert!(help.unwrap().contains("name that of the classes 'label'"));
    let (text, _) = refusal("label;x\n1;2\n");
    assert_eq!(text, "'fuzz' has no column 'label'; its first line has 'label;x'");
    let (text, _) = refusal("");
    assert_eq!(text, "'fuzz' is empty");
    let (text, help) = refusal(",x,label\n0,1,2\n");
    assert_eq!(text, "'fuzz' has a column without a name, number 1 of 3");
    assert!(help.unwrap().contains("index=False"));
    let (text, _) = refusal("x,label,x\n0,1,2\n");
    assert_eq!(text, "'fuzz' has two columns 'x'");
    let (text, _) = refusal("label\n1\n");
    assert_eq!(text, "'fuzz' has no columns of features");
}

#[test]
fn rows_of_another_length() {
    let (text, _) = refusal("label,x\n0,1\n0,1,2\n");
    assert_eq!(text, "'fuzz' line 3 has 3 values, but there are 2 columns");
}

#[test]
fn splits_without_rows() {
    for table in ["label,x\n", "label,x,split\n0,1,test\n"] {
        assert_eq!(refusal(table).0, "the train split has no samples");
    }
    let (text, help) = refusal("label,x\n0,1\n1,2\n");
    assert_eq!(text, "the test split has no samples");
    assert!(help.unwrap().contains("at least 6 rows"));
}
