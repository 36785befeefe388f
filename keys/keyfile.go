package keys

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
)

// CheckKeyFile tells what is wrong with a file whose key encrypts signing keys.
func CheckKeyFile(file string) error {
	_, err := readKeyFile(file)
	return err
}

// readKeyFile returns the key in a file: 32 bytes in base64, for nobody else to
// read.
func readKeyFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the key file %s is not a file", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the key file %s can be read or written by others (mode %04o); make it private with `chmod 600 %s`", file, info.Mode().Perm(), file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("the key file %s does not hold 32 bytes in base64; make one with `head -c 32 /dev/urandom | base64`", file)
	}
	return key, nil
}
