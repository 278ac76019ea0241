package worker

import (
	"testing"
	"testing/fstest"

	"cocoon/enclave/datadisk"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

func TestCiphersAreLoadedOnlyForAnEncryptedDisk(t *testing.T) {
	disk := func(serials ...string) fstest.MapFS {
		sys := fstest.MapFS{"class/block/loop0/size": {}}
		for i, s := range serials {
			sys["class/block/vd"+string(rune('a'+i))+"/serial"] = &fstest.MapFile{Data: []byte(s)}
		}
		return sys
	}
	plain := &evidence.Config{}
	encrypted := &evidence.Config{Model: evidence.ConfigModel{KeySHA256: &digest.SHA256{1}}}
	further := &evidence.Config{Models: []evidence.ConfigModel{{}, {KeySHA256: &digest.SHA256{1}}}}
	tests := []struct {
		name string
		sys  fstest.MapFS
		c    *evidence.Config
		want bool
	}{
		{"neither a data disk nor an encrypted model", disk("cocoon-root", "cocoon-model"), plain, false},
		{"an encrypted model", disk("cocoon-root", "cocoon-model"), encrypted, true},
		{"an encrypted model beside plain ones", disk("cocoon-root", "cocoon-model"), further, true},
		{"a data disk", disk("cocoon-root", datadisk.Serial), plain, true},
		{"two data disks, which are refused later", disk(datadisk.Serial, datadisk.Serial), plain, true},
		{"no way to tell", fstest.MapFS{}, plain, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := needsCiphers(tt.sys, tt.c); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestAMachineWithoutItsModulesIsRefused(t *testing.T) {
	if err := load("absent.list"); !fault.Has(err, CodeModule) {
		t.Errorf("got %v", err)
	}
}
