package explain_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/builtin"
	"cocoon/verifier/policy/explain"
	"cocoon/verifier/policy/snp"
	"cocoon/verifier/tpmtest"
)

func whole(p *policy.Policy) string {
	var b strings.Builder
	for _, s := range explain.Policy(p) {
		fmt.Fprintf(&b, "%s\n  %s\n", s.Title, strings.Join(s.Lines, "\n  "))
	}
	return b.String()
}

// silent are the fields that decide nothing: a format that the reader fixes, a
// name, and sections without a field.
var silent = []string{"Format", "Name", "SNP.Guest", "SNP.Platform"}

// TestEveryFieldOfAPolicyIsExplained changes each field in turn and wants
// another explanation.
func TestEveryFieldOfAPolicyIsExplained(t *testing.T) {
	n := 0
	eachField(reflect.TypeFor[policy.Policy](), "", nil, func(path string, set func(reflect.Value, bool)) {
		n++
		without, with := base(), base()
		set(reflect.ValueOf(without).Elem(), false)
		set(reflect.ValueOf(with).Elem(), true)
		same := whole(without) == whole(with)
		if same != slices.Contains(silent, path) {
			t.Errorf("%s: the explanation is the same: %v", path, same)
		}
	})
	if n < 80 {
		t.Errorf("only %d fields were changed", n)
	}
}

// base has what other fields need to mean something.
func base() *policy.Policy {
	return &policy.Policy{Environment: policy.Production, Manifests: policy.Manifests{Keys: []digest.SHA256{{1}}}, SNP: &snp.Policy{RequireCRL: true}}
}

// eachField calls visit for every field of a struct and of the structs in it,
// with a function that sets it in a policy: what leads to it, and with true
// itself.
func eachField(typ reflect.Type, path string, to []int, visit func(string, func(reflect.Value, bool))) {
	for i := range typ.NumField() {
		f, at := typ.Field(i), append(slices.Clone(to), i)
		name := path + f.Name
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if f.Type.Kind() == reflect.Pointer || inner.Kind() != reflect.Struct {
			visit(name, func(p reflect.Value, change bool) { reach(p, at, change) })
		}
		switch {
		case f.Anonymous:
			eachField(inner, path, at, visit)
		case inner.Kind() == reflect.Struct && inner != reflect.TypeFor[policy.Registry]():
			eachField(inner, name+".", at, visit)
		}
	}
}

// reach walks to a field, making what is on the way, and with change fills it.
func reach(v reflect.Value, at []int, change bool) {
	for _, i := range at[:len(at)-1] {
		v = v.Field(i)
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
	}
	if v = v.Field(at[len(at)-1]); change {
		fill(v)
	}
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 3)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(3)
	case reflect.String:
		v.SetString("development")
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Array:
		fill(v.Index(0))
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

func TestExplanationsNameWhatMatters(t *testing.T) {
	w := tpmtest.NewWorld(t)
	production, err := builtin.New(policy.Production, builtin.Site{ManifestKeys: w.Policy.Manifests.Keys})
	if err != nil {
		t.Fatal(err)
	}
	lax := *production
	lax.DCAP, lax.SNP = nil, nil
	tests := *w.Policy
	tests.TrustClasses = []string{policy.ClassTest}
	for _, c := range []struct {
		name   string
		policy *policy.Policy
		want   []string
	}{
		{"production", production, []string{"marked production", "refuses every other class: sgx, az-tdx, az-snp, vtpm, test", "tdx: accepts TCB status UpToDate only", "tdx: refuses debuggable guests",
			"tdx: refuses TDs with a service TD", "names no least TCB", "gpu.present: config.gpus.count > 0", "at most 1 hour"}},
		{"development", w.Policy, []string{"marked development", "absent: Intel TDX and SGX are refused", "absent: evidence of GPUs is refused", "certified"}},
		{"test roots", &tests, []string{"accepts test: machines of whatever kind whose authority is a configured test root"}},
		{"classes without their sections", &lax, []string{"names tdx, and refuses it all the same: there is no section dcap.tdx", "names snp, and refuses it all the same"}},
	} {
		got := whole(c.policy)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: nothing says %q:\n%s", c.name, want, got)
			}
		}
	}
}
