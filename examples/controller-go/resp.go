package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// patience is for how long an answer is waited for. It is longer than the longest block.
var patience = 15 * time.Second

// Redis is one connection that speaks RESP2. It is for one goroutine.
type Redis struct {
	conn net.Conn
	in   *bufio.Reader
}

// Refused is an error that the server answers: the connection is still good.
type Refused string

func (r Refused) Error() string { return string(r) }

// Dial connects to redis://[user:password@]host:port[/db].
func Dial(address string) (*Redis, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "redis" {
		return nil, errors.New("a URL is wanted: redis://[user:password@]host:port[/db]")
	}
	conn, err := net.DialTimeout("tcp", u.Host, patience)
	if err != nil {
		return nil, err
	}
	r := &Redis{conn, bufio.NewReader(conn)}
	if err := r.begin(u); err != nil {
		conn.Close()
		return nil, err
	}
	return r, nil
}

// begin logs in, and selects the database that the URL names.
func (r *Redis) begin(u *url.URL) error {
	if password, ok := u.User.Password(); ok {
		login := []string{"AUTH", u.User.Username(), password}
		if u.User.Username() == "" {
			login = []string{"AUTH", password}
		}
		if _, err := r.Do(login...); err != nil {
			return err
		}
	}
	if db := strings.Trim(u.Path, "/"); db != "" && db != "0" {
		if _, err := r.Do("SELECT", db); err != nil {
			return err
		}
	}
	return nil
}

// Do sends a command and reads its answer: nil, string, int64, []any, or an error.
func (r *Redis) Do(words ...string) (any, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	// Without a deadline a server that is gone without a word would be waited for for ever.
	if err := r.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(r.conn, b.String()); err != nil {
		return nil, err
	}
	return r.read()
}

func (r *Redis) read() (any, error) {
	line, err := r.in.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	kind, text := line[0], strings.TrimRight(line[1:], "\r\n")
	switch kind {
	case '+':
		return text, nil
	case '-':
		return nil, Refused(text)
	case ':':
		return strconv.ParseInt(text, 10, 64)
	}
	n, err := strconv.Atoi(text)
	if err != nil || (kind != '$' && kind != '*') {
		return nil, fmt.Errorf("no RESP: %q", line)
	}
	if n < 0 {
		return nil, nil
	}
	if kind == '$' {
		raw := make([]byte, n+2)
		_, err := io.ReadFull(r.in, raw)
		return string(raw[:n]), err
	}
	all := make([]any, n)
	for i := range all {
		if all[i], err = r.read(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
