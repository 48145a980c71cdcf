//! The average of decimals from their sum and count, as the engine's own average does it: four digits more, and the rest cut off.

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, Decimal128Array};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, Expr, Volatility, create_udf};

use crate::defaults::DECIMAL_DIGITS;

/// Digits that an average has more than its values.
const MORE: u8 = 4;

/// What an average of decimals of so many digits is.
pub(super) fn type_of(digits: u8, scale: i8) -> (u8, i8) {
    let most = DECIMAL_DIGITS.cast_signed();
    (digits.saturating_add(MORE).min(DECIMAL_DIGITS), scale.saturating_add(MORE.cast_signed()).min(most))
}

/// An average of decimals of so many digits.
pub(super) fn of(sum: Expr, count: Expr, digits: u8, scale: i8) -> Expr {
    let (whole, behind) = type_of(digits, scale);
    let average = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let [sums, counts] = arrays.as_slice() else {
            return Err(exec_datafusion_err!("an average is of a sum and a count"));
        };
        Ok(ColumnarValue::Array(divide(sums, counts, scale, (whole, behind))?))
    };
    let (takes, gives) = (DataType::Decimal128(DECIMAL_DIGITS, scale), DataType::Decimal128(whole, behind));
    let function = create_udf(
        "average_of",
        vec![takes, DataType::Int64],
        gives,
        Volatility::Immutable,
        Arc::new(average),
    );
    function.call(vec![sum, count])
}

fn divide(sums: &ArrayRef, counts: &ArrayRef, scale: i8, (digits, behind): (u8, i8)) -> Result<ArrayRef> {
    let too_large = || exec_datafusion_err!("an average has more digits than there are");
    let unit = 10_i128.checked_pow(behind.abs_diff(scale).into()).ok_or_else(too_large)?;
    let (sums, counts) = (sums.as_primitive::<Decimal128Type>(), counts.as_primitive::<Int64Type>());
    let average = |at: usize| {
        if sums.is_null(at) || counts.is_null(at) || counts.value(at) == 0 {
            return Ok(None);
        }
        let sum = sums.value(at).checked_mul(unit).ok_or_else(too_large)?;
        Ok(Some(sum / i128::from(counts.value(at))))
    };
    let averages = (0..sums.len()).map(average).collect::<Result<Decimal128Array>>()?;
    let averages = averages.with_precision_and_scale(digits, behind)?;
    averages.validate_decimal_precision(digits)?;
    Ok(Arc::new(averages))
}
