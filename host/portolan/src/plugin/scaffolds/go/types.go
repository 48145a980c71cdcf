// Package types has what generated bindings give and take where Go has no word of its own.
package types

// Unit is nothing.
type Unit struct{}

// Option is a value, or none.
type Option[T any] struct {
	value   T
	present bool
}

// Tags of options.
const (
	OptionNone uint8 = iota
	OptionSome
)

// Some is a value.
func Some[T any](value T) Option[T] { return Option[T]{value: value, present: true} }

// None is no value.
func None[T any]() Option[T] { return Option[T]{} }

// IsSome tells whether there is a value.
func (option Option[T]) IsSome() bool { return option.present }

// IsNone tells whether there is none.
func (option Option[T]) IsNone() bool { return !option.present }

// Some gives the value; the zero value when there is none.
func (option Option[T]) Some() T { return option.value }

// SomeOr gives the value, or the other one.
func (option Option[T]) SomeOr(other T) T {
	if option.present {
		return option.value
	}
	return other
}

// Tag tells which of both it is.
func (option Option[T]) Tag() uint8 {
	if option.present {
		return OptionSome
	}
	return OptionNone
}

// Result is a value, or why there is none.
type Result[T, E any] struct {
	value  T
	reason E
	failed bool
}

// Tags of results.
const (
	ResultOk uint8 = iota
	ResultErr
)

// Ok is a value.
func Ok[T, E any](value T) Result[T, E] { return Result[T, E]{value: value} }

// Err is a reason.
func Err[T, E any](reason E) Result[T, E] { return Result[T, E]{reason: reason, failed: true} }

// IsOk tells whether there is a value.
func (result Result[T, E]) IsOk() bool { return !result.failed }

// IsErr tells whether there is none.
func (result Result[T, E]) IsErr() bool { return result.failed }

// Ok gives the value; the zero value when there is none.
func (result Result[T, E]) Ok() T { return result.value }

// Err gives the reason.
func (result Result[T, E]) Err() E { return result.reason }

// Tag tells which of both it is.
func (result Result[T, E]) Tag() uint8 {
	if result.failed {
		return ResultErr
	}
	return ResultOk
}

// Tuple2 is a pair.
type Tuple2[A, B any] struct {
	F0 A
	F1 B
}
