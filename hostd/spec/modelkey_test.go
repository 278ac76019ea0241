package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/measurements/modelpack"
)

func TestAKeyThatTheGuestWouldNotGetIsRefusedBeforeTheStart(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, name := range []string{KernelFile, InitrdFile, RootFile, CmdlineFile} {
		write("image/"+name, "x")
	}
	engine := write("engine.img", "x")
	write("model/weights.gguf", "some weights")
	key := modelpack.NewKey()
	plain, encrypted := filepath.Join(dir, "plain.pack"), filepath.Join(dir, "encrypted.pack")
	for path, o := range map[string]modelpack.Options{plain: {Name: "m", Revision: "1"}, encrypted: {Name: "m", Revision: "1", Key: &key}} {
		if _, err := modelpack.Make(t.Context(), filepath.Join(dir, "model"), path, o); err != nil {
			t.Fatal(err)
		}
	}
	bare := write("bare.img", strings.Repeat("x", 8192)) // no description at its end
	with := func(key string) string { return fmt.Sprintf(`{"model":{"key_sha256":%q,"name":"m"}}`, key) }
	right := with(key.ID().String())
	several := fmt.Sprintf(`{"model":{"name":"m"},"models":[{"key_sha256":%q,"name":"n"}]}`, key.ID())
	const service = `{"model_keys":"http://10.0.2.103:80","version":1}`
	forwards := []Forward{{Guest: "10.0.2.103:80", Target: "unix:/run/owner.sock"}}
	for _, c := range []struct {
		name, pack, config, operator string
		forwards                     []Forward
		more                         []string
		code                         string
	}{
		{name: "a plain pack", pack: plain, config: `{"model":{"name":"m"}}`},
		{name: "an encrypted pack and all that it needs", pack: encrypted, config: right, operator: service, forwards: forwards},
		{name: "the port that the scheme has", pack: encrypted, config: right, operator: `{"model_keys":"https://10.0.2.103/keys"}`,
			forwards: []Forward{{Guest: "10.0.2.103:443"}}},
		{name: "a pack that says nothing, left to the guest", pack: bare, config: `{"model":{"name":"m"}}`},
		{name: "a config that cannot be read, left to the guest", pack: encrypted, config: `[`},
		{name: "no key in the config", pack: encrypted, config: `{"model":{"name":"m"}}`, code: CodeKeyAbsent},
		{name: "another key in the config", pack: encrypted, config: with(strings.Repeat("ab", 32)), operator: service, forwards: forwards, code: CodeKeyDiffers},
		{name: "half a key", pack: encrypted, config: with(key.ID().String()[:10]), operator: service, forwards: forwards, code: CodeKeyDiffers},
		{name: "a key for a plain pack", pack: plain, config: right, operator: service, forwards: forwards, code: CodeKeyPlain},
		{name: "an encrypted pack as one of several", pack: plain, more: []string{encrypted}, config: several, operator: service, forwards: forwards},
		{name: "one of several whose key the config does not name", pack: plain, more: []string{encrypted}, config: `{"model":{"name":"m"},"models":[{"name":"n"}]}`, code: CodeKeyAbsent},
		{name: "one of several in another's place", pack: encrypted, more: []string{bare}, config: several, operator: service, forwards: forwards, code: CodeKeyAbsent},
		{name: "one of several with a service of its own", pack: plain, more: []string{encrypted}, config: several,
			operator: `{"models":{"n":{"model_keys":"http://10.0.2.103:80"}}}`, forwards: forwards},
		{name: "one of several with a service to which nothing leads", pack: plain, more: []string{encrypted}, config: several,
			operator: `{"model_keys":"http://10.0.2.103:80","models":{"n":{"model_keys":"http://10.0.2.104:80"}}}`, forwards: forwards, code: CodeKeyService},
		{name: "no service", pack: encrypted, config: right, operator: `{"version":1}`, forwards: forwards, code: CodeKeyService},
		{name: "a service by name", pack: encrypted, config: right, operator: `{"model_keys":"http://owner.example"}`, forwards: forwards, code: CodeKeyService},
		{name: "a service by another scheme", pack: encrypted, config: right, operator: `{"model_keys":"ftp://10.0.2.103:80"}`, forwards: forwards, code: CodeKeyService},
		{name: "a service to which nothing leads", pack: encrypted, config: right, operator: service, code: CodeKeyService},
		{name: "a service of which the pack without description needs the key", pack: bare, config: right, operator: `{"version":1}`, code: CodeKeyService},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Spec{Image: filepath.Join(dir, "image"), Packs: Packs{Engine: engine, Model: c.pack, Models: c.more}, Forwards: c.forwards,
				Config: write("config.json", c.config), Operator: write("operator.json", c.operator)}
			err := s.CheckFiles()
			if c.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			all := fault.All(err)
			if len(all) != 1 || all[0].Code != c.code || all[0].Remedy == "" {
				t.Errorf("%v, want one fault %s with a remedy", err, c.code)
			}
		})
	}
}
