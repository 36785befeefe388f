package main

import (
	"os"
	"strings"
)

// readEnvFile reads NAME=VALUE lines as a shell would that sources the file:
// blank lines, comments, `export` and quotes around a value are understood.
// There are no expansions. An error names file and line, never a value.
func readEnvFile(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, badInput("reading --env-file: %v", err)
	}
	env := map[string]string{}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t'\"") {
			return nil, badInput("%s:%d:1: expected NAME=VALUE", file, n)
		}
		if value, ok = unquote(value); !ok {
			return nil, badInput("%s:%d:%d: the value has an open quote or needs a shell to read it; put it in single quotes", file, n, len(name)+2)
		}
		env[name] = value
	}
	return env, nil
}

// unquote reads the value of a shell assignment that needs no shell.
func unquote(s string) (string, bool) {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		s = s[1 : len(s)-1]
		return s, !strings.Contains(s, "'")
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
		return s, !strings.ContainsAny(s, "\"\\$`")
	}
	return s, !strings.ContainsAny(s, "'\"\\$` \t;&|<>()#")
}
