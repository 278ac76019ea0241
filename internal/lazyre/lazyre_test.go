package lazyre

import "testing"

func TestAnExpressionIsCompiledOnceAndOnlyWhenItIsUsed(t *testing.T) {
	re := New(`^a{1,3}$`)
	first := re()
	if !first.MatchString("aa") || first.MatchString("aaaa") || re() != first {
		t.Error("it does not match as written, or is compiled again")
	}
	bad := New(`(`) // no panic before its first use
	defer func() {
		if recover() == nil {
			t.Error("an expression that does not parse was taken")
		}
	}()
	bad()
}
