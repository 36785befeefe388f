package keys

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckKeyFile(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	for _, row := range []struct {
		name, content string
		mode          os.FileMode
		says          string // "": nothing is wrong
	}{
		{"good", good, 0o600, ""},
		{"read only", good, 0o400, ""},
		{"for the group", good, 0o640, "mode 0640"},
		{"for everybody", good, 0o644, "chmod 600"},
		{"empty", "", 0o600, "32 bytes in base64"},
		{"short", "AAAA", 0o600, "32 bytes in base64"},
		{"not base64", strings.Repeat("!", 44), 0o600, "32 bytes in base64"},
		{"two keys", good + good, 0o600, "32 bytes in base64"},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(file, []byte(row.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, row.mode); err != nil {
				t.Fatal(err)
			}
			err := CheckKeyFile(file)
			if (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("%v", err)
			}
		})
	}
	for _, file := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		if err := CheckKeyFile(file); err == nil {
			t.Errorf("%s is accepted", file)
		}
	}
}
